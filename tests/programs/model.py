"""A model that follows a script, for tests with real agents: codex, claude, gemini and opencode read its streams.

It asks for the tools that they offer, and keeps no state: a request holds the conversation, which says how far the
script has come. Prints `{"port": N}`, and serves on the loopback until it is ended.
"""

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = dict[str, Any]
NOTES = "# Notes\n\nwritten by a script\n"
WORK: list[Step] = [
    {"think": "Look around first.", "say": "I will look.", "run": "ls -a", "usage": (2000, 1500, 40, 16)},
    {"write": "notes.md", "usage": (2300, 2000, 60, 0)},
    {"read": "notes.md", "usage": (2500, 2300, 20, 0)},
    {"run": "printf '3 passed, 1 failed in 0.10s\\n'; exit 1", "usage": (2700, 2500, 25, 0)},
    {"say": "Done: wrote notes.md.\n\nALL TASKS COMPLETE", "usage": (2900, 2700, 30, 0)},
]
SHELLS = {"exec_command": "cmd", "Bash": "command", "bash": "command", "run_shell_command": "command"}
WRITES = {"Write": ("file_path", "content"), "write_file": ("file_path", "content"), "write": ("filePath", "content")}
READS = {"Read": "file_path", "read_file": "file_path", "read": "filePath"}


def next_step(body: Any) -> Step:
    """`[[work]]` in the prompt is the script above; `[[wait]]` a command that ends only when it is ended, and in a
    conversation that goes on after it a word of how many prompts it has seen."""
    prompts, results, script = 0, 0, ""
    for kind, text in said(body):
        if kind == "result":
            results += 1
        elif found := re.findall(r"\[\[(\w+)\]\]", text):
            prompts, results, script = prompts + len(found), 0, found[-1]
    if script == "work":
        return WORK[min(results, len(WORK) - 1)]
    if script == "wait" and prompts == 1 and results == 0:
        return {"run": "touch waits; sleep 1000", "usage": (900, 0, 9, 0)}
    return {"say": f"I have seen {prompts} prompts.", "usage": (1000, 900, 10, 0)}


def said(body: Any) -> Iterator[tuple[str, str]]:
    """(`result`, "") for what a tool returned, (`prompt`, text) for what a person said, in order."""
    for item in body.get("input") or ():
        if str(item.get("type")).endswith("_output"):
            yield "result", ""
        elif item.get("role") == "user":
            yield "prompt", json.dumps(item["content"])
    for message in body.get("messages") or ():
        content: Any = message.get("content")
        blocks: Any = [{"type": "text", "text": content}] if isinstance(content, str | None) else content
        for block in blocks:
            if message["role"] == "tool" or block.get("type") == "tool_result":
                yield "result", ""
            elif message["role"] == "user" and block.get("type") == "text":
                yield "prompt", block["text"]
    for content in body.get("contents") or ():
        for part in content["parts"]:
            if "functionResponse" in part:
                yield "result", ""
            elif content["role"] == "user" and "text" in part:
                yield "prompt", part["text"]


def call_of(step: Step, body: Any) -> tuple[str, dict[str, Any]] | None:
    """The step's tool, in the client's own words; codex writes by a patch in its shell."""
    names: set[str] = set()
    for tool in body.get("tools") or ():
        names |= {tool.get("name"), tool.get("function", {}).get("name")}
        names |= {declared["name"] for declared in tool.get("functionDeclarations") or ()}
    shell = next((name for name in SHELLS if name in names), None)
    if shell is None:
        return None  # A question beside the work: for a title, say.
    command = step.get("run")
    if path := step.get("write"):
        if (name := next((name for name in WRITES if name in names), None)) is not None:
            return name, dict(zip(WRITES[name], (path, NOTES), strict=True))
        lines = "".join(f"+{line}\n" for line in NOTES.splitlines())
        command = f"apply_patch <<'E'\n*** Begin Patch\n*** Add File: {path}\n{lines}*** End Patch\nE"
    if path := step.get("read"):
        if (name := next((name for name in READS if name in names), None)) is not None:
            return name, {READS[name]: path}
        command = f"cat {path}"
    return None if command is None else (shell, {SHELLS[shell]: command, "description": "a step"})


def responses(step: Step, call: tuple[str, Any] | None, tag: str) -> Iterator[dict[str, Any]]:
    given, cached, answered, thought = step["usage"]
    items: list[dict[str, Any]] = []
    if "think" in step:
        summary = [{"type": "summary_text", "text": step["think"]}]
        items.append({"type": "reasoning", "id": f"rs_{tag}", "summary": summary, "encrypted_content": "eA=="})
    if "say" in step:
        content: Any = [{"type": "output_text", "text": step["say"], "annotations": []}]
        items.append({"type": "message", "id": f"msg_{tag}", "role": "assistant", "content": content})
    if call is not None:
        name, arguments = call
        said = {"name": name, "arguments": json.dumps({**arguments, "login": False})}
        items.append({"type": "function_call", "id": f"fc_{tag}", "call_id": f"call_{tag}", **said})
    response = {"id": f"resp_{tag}", "object": "response", "model": "scripted", "output": items}
    yield {"type": "response.created", "response": response}
    for index, item in enumerate(items):
        yield {"type": "response.output_item.added", "output_index": index, "item": item}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    usage = {"input_tokens": given, "output_tokens": answered, "total_tokens": given + answered}
    usage |= {"input_tokens_details": {"cached_tokens": cached}, "output_tokens_details": {"reasoning_tokens": thought}}
    yield {"type": "response.completed", "response": {**response, "status": "completed", "usage": usage}}


def messages(step: Step, call: tuple[str, Any] | None, tag: str) -> Iterator[dict[str, Any]]:
    given, cached, answered, _ = step["usage"]
    usage = {"input_tokens": given - cached, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0}
    message: Any = {
        "id": f"msg_{tag}",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [],
    }
    yield {"type": "message_start", "message": {**message, "usage": {**usage, "output_tokens": 1}}}
    blocks: list[tuple[dict[str, Any], dict[str, Any]]] = []
    if "say" in step:
        blocks.append(({"type": "text", "text": ""}, {"type": "text_delta", "text": step["say"]}))
    if call is not None:
        block: Any = {"type": "tool_use", "id": f"toolu_{tag}", "name": call[0], "input": {}}
        blocks.append((block, {"type": "input_json_delta", "partial_json": json.dumps(call[1])}))
    for index, (block, delta) in enumerate(blocks):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    reason = "end_turn" if call is None else "tool_use"
    yield {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {**usage, "output_tokens": answered}}
    yield {"type": "message_stop"}


def chat(step: Step, call: tuple[str, Any] | None, tag: str) -> Iterator[dict[str, Any]]:
    given, cached, answered, thought = step["usage"]
    chunk = {"id": tag, "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    delta: dict[str, Any] = {"role": "assistant", "content": step.get("say", "")}
    if call is not None:
        function = {"name": call[0], "arguments": json.dumps(call[1])}
        delta["tool_calls"] = [{"index": 0, "id": f"call_{tag}", "type": "function", "function": function}]
    yield {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    reason = "stop" if call is None else "tool_calls"
    yield {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    usage = {"prompt_tokens": given, "completion_tokens": answered, "total_tokens": given + answered}
    usage |= {"prompt_tokens_details": {"cached_tokens": cached}}
    usage |= {"completion_tokens_details": {"reasoning_tokens": thought}}
    yield {**chunk, "choices": [], "usage": usage}


def contents(step: Step, call: tuple[str, Any] | None, tag: str) -> Iterator[dict[str, Any]]:
    given, cached, answered, thought = step["usage"]
    parts: list[dict[str, Any]] = [{"text": step["say"]}] if "say" in step else []
    if call is not None:
        parts.append({"functionCall": {"id": f"call_{tag}", "name": call[0], "args": call[1]}})
    usage = {"promptTokenCount": given, "cachedContentTokenCount": cached, "candidatesTokenCount": answered}
    usage |= {"thoughtsTokenCount": thought, "totalTokenCount": given + answered + thought}
    candidate = {"index": 0, "content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    yield {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "scripted", "responseId": tag}


WIRES = {"/responses": responses, "/messages": messages, "/chat/completions": chat, "enerateContent": contents}


class Handler(BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self) -> None:
        self._answer("application/json", json.dumps({"object": "list", "data": []}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = self.path.partition("?")[0]
        wire = next((wire for end, wire in WIRES.items() if path.endswith(end)), None)
        if wire is None:
            self._answer("application/json", json.dumps({"input_tokens": 1, "totalTokens": 1}))
            return
        Handler.requests += 1
        step = next_step(body)
        frames = [*wire(step, call_of(step, body), str(Handler.requests))]
        if path.endswith(":generateContent"):
            self._answer("application/json", json.dumps(frames[0]))
            return
        text = ""
        for frame in frames:
            text += (f"event: {frame['type']}\n" if "type" in frame else "") + f"data: {json.dumps(frame)}\n\n"
        self._answer("text/event-stream", text + ("data: [DONE]\n\n" if wire is chat else ""))

    def _answer(self, media_type: str, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever()
