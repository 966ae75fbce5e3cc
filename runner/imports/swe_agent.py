"""Trajectories of SWE-agent and mini-swe-agent: one run with one turn; each of its steps is a call and its answer.

They carry no times and no session id: the file's content names the run, and its date is the time of all that happened.
"""

import re
from collections.abc import Sequence

from runfold.commands import Stop
from runfold.events import CommandExecuted
from runner.imports.story import Story, Usage, joined
from runner.imports.tools import OUTPUT_TAIL_CHARACTERS
from runner.imports.values import Map, count, get, items, mapping, micros, milliseconds, text

FORMAT = "swe-agent"
_COMMAND = re.compile(r"```(?:mswea_bash_command|bash)\s*\n(.*?)\n```", re.S)
_RETURN_CODE = re.compile(r"<returncode>(-?\d{1,5})</returncode>")
_SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
_STOPPED = {"exit_cost": "COST_LIMIT_EXCEEDED", "limitsexceeded": "COST_LIMIT_EXCEEDED"}
_TIMED_OUT = frozenset({"exit_command_timeout", "exit_total_execution_time", "timeexceeded"})


def is_one(head: Sequence[Map]) -> bool:
    first = head[0]
    if isinstance(first.get("trajectory"), list):
        return True
    messages = items(first, "history") or items(first, "messages")
    return _are_messages(messages) if messages else _are_messages(head)


def _are_messages(found: Sequence[object]) -> bool:
    roles = ("system", "user", "assistant", "tool", "exit")
    return bool(found) and all(text(item, "role") in roles and "type" not in mapping(item) for item in found)


class SweAgent:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._calls = 0
        self._submitted = False
        self._status = ""
        self._said_status = False
        self._open = ""
        story.workflow = "swe-agent"

    def record(self, record: Map) -> None:
        story = self._story
        if not story.turn_open and story.turn == 0:
            story.start_turn()
        if "role" in record:
            self._message(record)
            return
        info = mapping(record, "info")
        self._title(record)
        if steps := items(record, "trajectory"):
            self._prompt(items(record, "history"))
            for step in steps:
                self._step(mapping(step))
        else:
            for message in items(record, "history") or items(record, "messages"):
                self._message(mapping(message))
        self._stats(info)

    def end(self) -> None:
        story, status = self._story, self._status
        if status.startswith("submitted") or (self._submitted and not self._said_status):
            story.completed("submitted")
        elif code := _STOPPED.get(status.lower()):
            story.ending = Stop(reason_code=code, condition="cost", message=f"the agent ended with `{status}`")
        elif self._said_status and status:
            code = "TIMED_OUT" if status.lower() in _TIMED_OUT else "TURN_FAILED"
            story.failed(f"the agent ended with `{status}`", code=code)
        story.finish()

    def _title(self, record: Map) -> None:
        story = self._story
        name = text(record, "replay_config", "agent", "name") or text(record, "instance_id")
        story.title = name or story.title
        story.model = text(record, "info", "config", "model", "model_name") or story.model

    def _prompt(self, history: list[object]) -> None:
        # Demonstrations stand before the task, which is the last thing that is not the agent's before its first step.
        asked = ""
        for message in history:
            if text(message, "role") == "assistant" and get(message, "is_demo") is not True:
                break
            if text(message, "role") == "user" and get(message, "is_demo") is not True:
                asked = joined(get(message, "content"))
        self._story.message("user", asked)

    def _step(self, step: Map) -> None:
        story, action = self._story, text(step, "action").strip()
        thought = text(step, "thought") or text(step, "response")
        story.message("assistant", thought)
        if not action:
            return
        self._call(action)
        self._answer(text(step, "observation"), None, milliseconds(step.get("execution_time")))

    def _message(self, message: Map) -> None:
        """Without a trajectory, the conversation itself tells what was run."""
        story, role, words = self._story, text(message, "role"), joined(message.get("content"))
        if role == "assistant":
            story.message("assistant", text(message, "thought") or words)
            self._model(message)
            found = _COMMAND.search(words)
            action = text(message, "action") or (found[1] if found else "")
            for call in items(message, "extra", "actions"):
                action = action or text(call, "command")
            if action:
                self._call(action)
        elif role in ("user", "tool") and self._open:
            code = _RETURN_CODE.search(words[:200])
            self._answer(words, int(code[1]) if code else None, None)
        elif role == "user":
            story.message("user", words)
        elif role == "exit":
            self._status = text(message, "extra", "exit_status") or self._status
            self._said_status = bool(self._status)

    def _model(self, message: Map) -> None:
        response = mapping(message, "extra", "response")
        counts = mapping(response, "usage")
        self._story.model = text(response, "model") or self._story.model
        cost = micros(get(message, "extra", "cost"))
        used = Usage(
            input_tokens=count(counts, "prompt_tokens"),
            cache_read_tokens=count(counts, "prompt_tokens_details", "cached_tokens"),
            output_tokens=count(counts, "completion_tokens"),
        )
        self._story.usage(used, cost_micros=cost, price_source="reported" if cost is not None else None)

    def _call(self, action: str) -> None:
        self._calls += 1
        self._open = f"step-{self._calls}"
        self._submitted = self._submitted or action == "submit" or action.startswith("submit ") or _SUBMIT in action
        self._story.call(self._open, "shell", {"command": action})

    def _answer(self, observation: str, exit_code: int | None, duration_ms: int | None) -> None:
        story, call_id = self._story, self._open
        self._open = ""
        command = story.arguments(call_id, "command")
        failed = exit_code not in (None, 0)
        ran = CommandExecuted(
            command=command,
            exit_code=exit_code,
            status="failed" if failed else "completed",
            duration_ms=duration_ms,
            output_tail=observation[-OUTPUT_TAIL_CHARACTERS:],
        )
        story.told(call_id, ran)
        story.result(call_id, observation, failed=failed)

    def _stats(self, info: Map) -> None:
        story = self._story
        self._status = text(info, "exit_status") or self._status
        self._said_status = bool(self._status)
        stats = mapping(info, "model_stats")
        cost = micros(stats.get("instance_cost"))
        used = Usage(input_tokens=count(stats, "tokens_sent"), output_tokens=count(stats, "tokens_received"))
        story.usage(used, cost_micros=cost, price_source="reported" if cost is not None else None)
