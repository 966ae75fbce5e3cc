"""One small recording of each format that can be imported, written by hand, with what it must become."""

from typing import Any

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """`calls` counts tool calls, `files` what was written; `tokens` are input, cache read, output, reasoning."""

    content: str
    format: str
    status: str = "completed"
    reason: str = "REPORTED"
    runs: int = 1
    turns: int = 0
    calls: int = 0
    commands: int = 0
    files: int = 0
    steps: tuple[int, int, int] = (0, 0, 0)
    tokens: tuple[int, int, int, int] = (0, 0, 0, 0)
    cost_micros: int | None = None


def lines(*records: Any) -> str:
    return "".join(msgspec.json.encode(record).decode() + "\n" for record in records)


def document(record: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(record), indent=1).decode()


def at(second: int) -> str:
    return f"2026-01-02T03:04:{second:02}Z"


def _codex(second: int, kind: str, **payload: Any) -> dict[str, Any]:
    return {"timestamp": at(second), "type": kind, "payload": payload}


def _total(*counts: int) -> dict[str, Any]:
    names = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_output_tokens")
    return {"total_token_usage": dict(zip(names, counts, strict=True))}


CODEX = lines(
    _codex(0, "session_meta", id="c-1", cwd="/w", cli_version="0.100.0"),
    _codex(1, "event_msg", type="task_started"),
    _codex(2, "response_item", type="message", role="user", content=[{"type": "input_text", "text": "Fix it"}]),
    _codex(3, "response_item", type="function_call", name="shell", call_id="1", arguments='{"command": ["ls", "-a"]}'),
    _codex(4, "response_item", type="function_call_output", call_id="1", output="Exit code: 2\nno"),
    _codex(5, "event_msg", type="patch_apply_end", call_id="2", success=True, changes={"a.py": {"type": "add"}}),
    _codex(6, "event_msg", type="token_count", info=_total(100, 40, 10, 3)),
    _codex(7, "event_msg", type="token_count", info=_total(100, 40, 10, 3)),
    _codex(8, "event_msg", type="token_count", info=_total(150, 90, 25, 3)),
    _codex(9, "event_msg", type="never_seen_before", detail=1),
    _codex(10, "event_msg", type="task_complete", last_agent_message="Done"),
)


def claude(second: int, kind: str, message: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": kind, "sessionId": "s-1", "timestamp": at(second), "cwd": "/w", "message": message, **more}


def _said(identity: str, block: dict[str, Any], stop: str) -> dict[str, Any]:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 0, "output_tokens": 7}
    return {"id": identity, "model": "claude-x", "content": [block], "stop_reason": stop, "usage": usage}


CLAUDE = lines(
    claude(0, "user", {"role": "user", "content": "Write a.py"}),
    claude(1, "assistant", _said("m1", {"type": "text", "text": "I will"}, "tool_use")),
    claude(2, "assistant", _said("m1", {"type": "tool_use", "id": "t1", "name": "Write", "input": {"file_path": "a.py"}}, "tool_use")),
    claude(3, "user", {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "written"}]}),
    claude(4, "assistant", _said("m2", {"type": "tool_use", "id": "t2", "name": "Task", "input": {}}, "tool_use")),
    claude(5, "user", {"role": "user", "content": "Look closely"}, isSidechain=True),
    claude(6, "assistant", _said("m3", {"type": "text", "text": "I looked"}, "end_turn"), isSidechain=True),
    claude(7, "user", {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2", "content": "fine"}]}),
    claude(8, "assistant", _said("m4", {"type": "text", "text": "Done"}, "end_turn")),
)  # fmt: skip

_GEMINI = {"id": "g1", "type": "gemini", "timestamp": at(2), "content": "Running", "model": "gemini-x"}
_GEMINI_TOKENS = {"tokens": {"input": 50, "output": 6, "cached": 30, "thoughts": 4}}
_GEMINI_CALL = {
    "id": "k1", "name": "run_shell_command", "args": {"command": "make"}, "status": "success",
    "result": [{"functionResponse": {"response": {"output": "Exit Code: 1\nno"}}}],
}  # fmt: skip
GEMINI = lines(
    {"sessionId": "g-1", "projectHash": "h", "startTime": at(0), "kind": "main"},
    {"id": "u1", "type": "user", "timestamp": at(1), "content": [{"text": "Make it"}]},
    {**_GEMINI, **_GEMINI_TOKENS},
    {"$set": {"lastUpdated": at(2)}},
    {**_GEMINI, **_GEMINI_TOKENS, "toolCalls": [_GEMINI_CALL]},
    {"id": "g2", "type": "gemini", "timestamp": at(3), "content": "It fails"},
)


def _qwen(second: int, kind: str, *parts: Any, **more: Any) -> dict[str, Any]:
    return {"type": kind, "sessionId": "q-1", "timestamp": at(second), "message": {"parts": list(parts)}, **more}


QWEN = lines(
    _qwen(0, "user", {"text": "Read it"}),
    _qwen(1, "assistant", {"functionCall": {"id": "1", "name": "read_file", "args": {"path": "a"}}}),
    _qwen(2, "tool_result", {"functionResponse": {"id": "1", "response": {"output": "x"}}}),
    _qwen(3, "assistant", {"text": "Read"}, usageMetadata={"promptTokenCount": 30, "candidatesTokenCount": 2}),
)


def _copilot(second: int, kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data, "id": str(second), "timestamp": at(second), "parentId": None}


COPILOT = lines(
    _copilot(0, "session.start", sessionId="p-1", selectedModel="gpt-x", startTime=at(0)),
    _copilot(1, "user.message", content="List"),
    _copilot(2, "assistant.message", content="Listing", outputTokens=4, toolRequests=[{"toolCallId": "1", "name": "bash", "arguments": {"command": "ls"}}]),
    _copilot(3, "tool.execution_start", toolCallId="1", toolName="bash", arguments={"command": "ls"}),
    _copilot(4, "tool.execution_complete", toolCallId="1", success=True, result={"content": "a"}),
    _copilot(5, "session.shutdown", shutdownType="routine", tokenDetails={"input": {"tokenCount": 10}, "output": {"tokenCount": 9}, "cache_read": {"tokenCount": 5}}),
)  # fmt: skip

KIMI = lines(
    {"type": "metadata", "protocol_version": "1.4", "created_at": 1767323040000},
    {"type": "turn.prompt", "input": [{"type": "text", "text": "Hi"}], "time": 1767323041000},
    {"type": "context.append_loop_event", "event": {"type": "content.part", "part": {"type": "text", "text": "Hello"}}, "time": 1767323042000},
    {"type": "context.append_loop_event", "event": {"type": "step.end", "usage": {"inputOther": 3, "inputCacheRead": 4, "output": 2}}, "time": 1767323043000},
    {"type": "turn.ended", "reason": "completed", "durationMs": 9, "time": 1767323044000},
)  # fmt: skip

DROID = lines(
    {"type": "system", "session_id": "d-1", "timestamp": at(0), "model": "m", "cwd": "/w"},
    {"type": "message", "session_id": "d-1", "timestamp": at(1), "role": "user", "text": "Go"},
    {"type": "tool_call", "session_id": "d-1", "timestamp": at(2), "toolCallId": "1", "toolName": "Shell", "parameters": {"command": "ls"}},
    {"type": "tool_result", "session_id": "d-1", "timestamp": at(3), "toolCallId": "1", "value": {"stdout": "a", "exitCode": 0}},
    {"type": "completion", "session_id": "d-1", "timestamp": at(4), "finalText": "Gone"},
)  # fmt: skip

_STATS = {"instance_cost": 0.5, "tokens_sent": 70, "tokens_received": 8, "api_calls": 2}
SWE_AGENT = document(
    {
        "environment": "main",
        "trajectory": [
            {"action": "ls", "observation": "a.py", "thought": "Look", "execution_time": 0.25},
            {"action": "submit", "observation": "diff", "thought": "Done"},
        ],
        "history": [{"role": "system", "content": "You"}, {"role": "user", "content": "Solve this"}],
        "info": {"exit_status": "submitted", "model_stats": _STATS},
    }
)
SWE_AGENT_COST = document(
    {"trajectory": [{"action": "ls", "observation": ""}], "info": {"exit_status": "exit_cost", "model_stats": _STATS}}
)
MINI_SWE_AGENT = document(
    [
        {"role": "system", "content": "You"},
        {"role": "user", "content": "Solve this"},
        {"role": "assistant", "content": "Look\n```mswea_bash_command\nls\n```"},
        {"role": "user", "content": "<returncode>1</returncode>\n<output>\nno\n</output>"},
        {"role": "assistant", "content": "```mswea_bash_command\necho COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT\n```"},
        {"role": "user", "content": ""},
    ]
)

_RESPONSE = {"id": "r1", "model": "m", "usage": {"prompt_tokens": 40, "completion_tokens": 5}}
OPENHANDS = document(
    [
        {"id": 0, "timestamp": "2026-01-02T03:04:00.5", "source": "user", "action": "message", "args": {"content": "Go"}},
        {"id": 1, "timestamp": "2026-01-02T03:04:01.5", "source": "agent", "action": "run", "args": {"command": "ls"}, "tool_call_metadata": {"model_response": _RESPONSE}},
        {"id": 2, "timestamp": "2026-01-02T03:04:02.5", "source": "agent", "observation": "run", "content": "a", "cause": 1, "extras": {"metadata": {"exit_code": 0}}, "tool_call_metadata": {"model_response": _RESPONSE}},
        {"id": 3, "timestamp": "2026-01-02T03:04:03.5", "source": "agent", "action": "finish", "args": {"thought": "Done"}},
    ]
)  # fmt: skip
_HISTORY: list[dict[str, Any]] = [
    {"action": "message", "content": "Go", "wait_for_response": False},
    {"action": "run", "command": "touch a", "thought": "Touch"},
    {"observation": "run", "content": "", "command": "touch a", "exit_code": 0},
    {"action": "finish", "outputs": {}, "thought": "Done"},
]
OPENHANDS_OUTPUT = lines(
    {"instruction": "Go", "issue": {"number": 1}, "history": _HISTORY, "metrics": {"accumulated_cost": 0.25}, "success": True},
    {"instruction": "Go", "issue": {"number": 2}, "history": _HISTORY, "metrics": {"accumulated_cost": 0.25}, "success": False, "result_explanation": "no"},
)  # fmt: skip
_SDK_STATS = {"accumulated_token_usage": {"prompt_tokens": 90, "completion_tokens": 9, "cache_read_tokens": 60, "reasoning_tokens": 2}, "accumulated_cost": 0.125}  # fmt: skip
OPENHANDS_SDK = lines(
    {"kind": "MessageEvent", "id": "1", "timestamp": at(0), "source": "user", "llm_message": {"content": [{"type": "text", "text": "Go"}]}},
    {"kind": "ActionEvent", "id": "2", "timestamp": at(1), "source": "agent", "tool_name": "terminal", "tool_call_id": "t", "action": {"kind": "TerminalAction", "command": "ls"}},
    {"kind": "ObservationEvent", "id": "3", "timestamp": at(2), "source": "environment", "tool_call_id": "t", "observation": {"content": [{"text": "a"}], "exit_code": 0}},
    {"kind": "ConversationStateUpdateEvent", "id": "4", "timestamp": at(3), "source": "environment", "key": "stats", "value": {"usage_to_metrics": {"agent": _SDK_STATS}}},
    {"kind": "ConversationStateUpdateEvent", "id": "5", "timestamp": at(4), "source": "environment", "key": "execution_status", "value": "finished"},
)  # fmt: skip


def _github_step(number: int, conclusion: str | None) -> dict[str, Any]:
    status = "completed" if conclusion else "in_progress"
    times = {"started_at": at(number), "completed_at": at(number + 1) if conclusion else None}
    return {"name": f"step {number}", "number": number, "status": status, "conclusion": conclusion, **times}


def _github_job(identity: int, status: str, conclusion: str | None, *steps: Any) -> dict[str, Any]:
    head = {"id": identity, "run_id": 7, "run_attempt": 1, "name": f"job {identity}", "workflow_name": "CI"}
    times = {"created_at": at(0), "started_at": at(1), "completed_at": at(9) if conclusion else None}
    return {**head, "status": status, "conclusion": conclusion, "steps": list(steps), **times}


_GOOD, _BAD, _NONE = _github_step(1, "success"), _github_step(2, "failure"), _github_step(3, None)
GITHUB_JOB = document({"action": "completed", "workflow_job": _github_job(1, "completed", "failure", _GOOD, _BAD)})
GITHUB_JOB_OPEN = document({"action": "in_progress", "workflow_job": _github_job(1, "in_progress", None, _GOOD, _NONE)})
GITHUB_JOBS = document(
    {"total_count": 2, "jobs": [_github_job(1, "completed", "success"), _github_job(2, "completed", "cancelled")]}
)
GITHUB_CHECK = document(
    {"check_run": {"id": 3, "name": "lint", "status": "completed", "conclusion": "timed_out", "started_at": at(0), "completed_at": at(5)}}
)  # fmt: skip
GITHUB_RUN = document(
    {"action": "completed", "workflow_run": {"id": 4, "name": "CI", "status": "completed", "conclusion": "success", "created_at": at(0), "updated_at": at(5), "run_attempt": 1}}
)  # fmt: skip


def _dbt(name: str, status: str, second: int) -> dict[str, Any]:
    timing = [{"name": "execute", "started_at": at(second), "completed_at": at(second + 2)}]
    return {"unique_id": name, "status": status, "timing": timing, "execution_time": 2.0, "message": status.upper()}


_DBT_META = {
    "dbt_schema_version": "https://schemas.getdbt.com/dbt/run-results/v6.json", "dbt_version": "1.9.0",
    "generated_at": at(20), "invocation_id": "i-1",
}  # fmt: skip
DBT = document(
    {
        "metadata": _DBT_META, "elapsed_time": 10.0, "args": {"which": "build"},
        "results": [
            _dbt("model.a", "success", 11), _dbt("test.b", "fail", 12),
            {"unique_id": "model.c", "status": "skipped", "timing": []},
        ],
    }
)  # fmt: skip


def _lineage(run: str, kind: str, second: int) -> dict[str, Any]:
    job = {"namespace": "shop", "name": f"job {run}"}
    return {"eventType": kind, "eventTime": at(second), "run": {"runId": run}, "job": job, "outputs": [job]}


OPENLINEAGE = document(
    [_lineage("a", "START", 0), _lineage("b", "START", 1), _lineage("a", "COMPLETE", 2), _lineage("b", "COMPLETE", 3)]
)


def _temporal(number: int, kind: str, **said: Any) -> dict[str, Any]:
    key = f"{kind[0].lower()}{kind[1:]}EventAttributes"
    return {"eventId": str(number), "eventTime": at(number), "eventType": kind, key: said}


TEMPORAL = document(
    {
        "events": [
            _temporal(5, "WorkflowExecutionTimedOut"),
            _temporal(4, "ActivityTaskTimedOut", scheduledEventId="2", failure={"message": "too late"}),
            _temporal(3, "ActivityTaskStarted", scheduledEventId="2", attempt=2),
            _temporal(2, "ActivityTaskScheduled", activityId="2", activityType={"name": "pay"}),
            _temporal(1, "WorkflowExecutionStarted", workflowType={"name": "order"}, originalExecutionRunId="t-1"),
        ]
    }
)

CODEX_EXEC = lines(
    {"type": "thread.started", "thread_id": "c-2"},
    {"type": "turn.started"},
    {"type": "item.completed", "item": {"id": "1", "type": "command_execution", "command": "ls", "aggregated_output": "a", "exit_code": 0, "status": "completed"}},
    {"type": "item.completed", "item": {"id": "2", "type": "file_change", "changes": [{"path": "a", "kind": "add"}], "status": "completed"}},
    {"type": "item.completed", "item": {"id": "3", "type": "agent_message", "text": "Done"}},
    {"type": "turn.completed", "usage": {"input_tokens": 30, "cached_input_tokens": 20, "output_tokens": 4}},
)  # fmt: skip
CLAUDE_STREAM = lines(
    {"type": "system", "subtype": "init", "session_id": "s-2", "model": "claude-x", "cwd": "/w"},
    {"type": "assistant", "session_id": "s-2", "message": {"id": "m", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}}]}},
    {"type": "user", "session_id": "s-2", "timestamp": at(5), "message": {"content": [{"type": "tool_result", "tool_use_id": "t", "content": "Exit code 1", "is_error": True}]}},
    {"type": "result", "subtype": "success", "is_error": True, "session_id": "s-2", "result": "API Error: 500", "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 2}, "total_cost_usd": 0.5},
)  # fmt: skip
GEMINI_STREAM = lines(
    {"type": "init", "timestamp": at(0), "session_id": "g-2", "model": "gemini-x"},
    {"type": "message", "timestamp": at(1), "role": "user", "content": "Go"},
    {"type": "tool_use", "timestamp": at(2), "tool_name": "write_file", "tool_id": "w", "parameters": {"file_path": "a"}},
    {"type": "tool_result", "timestamp": at(3), "tool_id": "w", "status": "success"},
    {"type": "result", "timestamp": at(4), "status": "success", "stats": {"total_tokens": 25, "input_tokens": 20, "output_tokens": 3, "cached": 10}},
)  # fmt: skip
OPENCODE_RUN = lines(
    {"type": "step_start", "timestamp": 1767323041000, "sessionID": "o-1", "part": {"type": "step-start"}},
    {"type": "text", "timestamp": 1767323042000, "sessionID": "o-1", "part": {"type": "text", "text": "Done"}},
    {"type": "step_finish", "timestamp": 1767323043000, "sessionID": "o-1", "part": {"reason": "stop", "tokens": {"input": 5, "output": 2, "reasoning": 1, "cache": {"read": 6, "write": 0}}, "cost": 0.25}},
)  # fmt: skip

SAMPLES: dict[str, Sample] = {
    "codex exec": Sample(
        content=CODEX_EXEC, format="codex-exec", turns=1, calls=2, commands=1, files=1, tokens=(30, 20, 4, 0)
    ),
    "claude stream": Sample(
        content=CLAUDE_STREAM, format="claude-stream", status="failed", reason="TURN_FAILED", turns=1, calls=1,
        commands=1, tokens=(15, 5, 2, 0), cost_micros=500_000,
    ),
    "gemini stream": Sample(
        content=GEMINI_STREAM, format="gemini-stream", turns=1, calls=1, files=1, tokens=(20, 10, 5, 2)
    ),
    "opencode": Sample(
        content=OPENCODE_RUN, format="opencode-run", turns=1, tokens=(11, 6, 3, 1), cost_micros=250_000
    ),
    "codex": Sample(
        content=CODEX, format="codex-rollout", turns=1, calls=1, commands=1, files=1, tokens=(150, 90, 25, 3)
    ),
    "claude": Sample(
        content=CLAUDE, format="claude-session", turns=1, calls=2, files=1, steps=(1, 0, 0), tokens=(100, 80, 28, 0)
    ),
    "gemini": Sample(content=GEMINI, format="gemini-session", turns=1, calls=1, commands=1, tokens=(50, 30, 10, 4)),
    "qwen": Sample(content=QWEN, format="qwen-session", turns=1, calls=1, tokens=(30, 0, 2, 0)),
    "copilot": Sample(content=COPILOT, format="copilot-session", turns=1, calls=1, commands=1, tokens=(15, 5, 9, 0)),
    "kimi": Sample(content=KIMI, format="kimi-session", turns=1, tokens=(7, 4, 2, 0)),
    "droid": Sample(content=DROID, format="droid-stream", turns=1, calls=1, commands=1),
    "swe-agent": Sample(
        content=SWE_AGENT, format="swe-agent", turns=1, calls=2, commands=2, tokens=(70, 0, 8, 0), cost_micros=500_000
    ),
    "swe-agent out of money": Sample(
        content=SWE_AGENT_COST, format="swe-agent", status="stopped", reason="COST_LIMIT_EXCEEDED", turns=1, calls=1,
        commands=1, tokens=(70, 0, 8, 0), cost_micros=500_000,
    ),
    "mini-swe-agent": Sample(content=MINI_SWE_AGENT, format="swe-agent", turns=1, calls=2, commands=2),
    "openhands": Sample(content=OPENHANDS, format="openhands", turns=1, calls=1, commands=1, tokens=(40, 0, 5, 0)),
    "openhands output": Sample(
        content=OPENHANDS_OUTPUT, format="openhands-output", runs=2, turns=1, calls=1, commands=1, cost_micros=250_000
    ),
    "openhands sdk": Sample(
        content=OPENHANDS_SDK, format="openhands", turns=1, calls=1, commands=1, tokens=(90, 60, 9, 2),
        cost_micros=125_000,
    ),
    "github job": Sample(
        content=GITHUB_JOB, format="github-actions", status="failed", reason="STEP_FAILED", steps=(1, 1, 0)
    ),
    "github job in progress": Sample(
        content=GITHUB_JOB_OPEN, format="github-actions", status="failed", reason="NO_TERMINAL_EVENT", steps=(1, 0, 1)
    ),
    "github jobs": Sample(
        content=GITHUB_JOBS, format="github-actions", status="cancelled", reason="CANCELLED_BY_USER", steps=(1, 0, 1)
    ),
    "github check": Sample(content=GITHUB_CHECK, format="github-actions", status="failed", reason="TIMED_OUT"),
    "github run": Sample(content=GITHUB_RUN, format="github-actions"),
    "dbt": Sample(content=DBT, format="dbt-run-results", status="failed", reason="STEP_FAILED", steps=(1, 1, 0)),
    "openlineage": Sample(content=OPENLINEAGE, format="openlineage", runs=2),
    "temporal": Sample(
        content=TEMPORAL, format="temporal-history", status="failed", reason="TIMED_OUT", steps=(0, 1, 0)
    ),
}  # fmt: skip
