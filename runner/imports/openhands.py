"""OpenHands: event lists of its first generation, its evaluation outputs, and the events of its SDK (`kind`)."""

from collections.abc import Sequence

import msgspec

from runfold.events import AgentError, PlanUpdated
from runner.imports.story import Story, Usage, joined
from runner.imports.values import Map, count, get, items, mapping, micros, text

FORMAT = "openhands"
_TOOLS = {"run": "run", "run_ipython": "ipython", "read": "read", "write": "write", "edit": "edit"}
_SILENT = frozenset({"system", "recall", "change_agent_state", "condensation", "agent_state_changed", "null"})


def is_one(head: Sequence[Map]) -> bool:
    first = head[0]
    return any(_is_event(record) for record in head) or (
        any(_is_event(mapping(item)) for item in items(first, "history")) and "instruction" in first
    )


def _is_event(record: Map) -> bool:
    first = "action" in record or "observation" in record
    return (first and ("source" in record or "args" in record or "content" in record or "thought" in record)) or (
        "source" in record and text(record, "kind").endswith(("Event", "Observation"))
    )


class OpenHands:
    """The events of one session: a list, or lines."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._total = Usage()
        self._cost = 0
        self._responses: set[str] = set()
        self._calls = 0
        self._status = ""
        story.workflow = "openhands"

    def record(self, record: Map) -> None:
        self._story.at(record.get("timestamp"))
        if "kind" in record:
            self._sdk(text(record, "kind"), record)
        elif "observation" in record:
            self._observed(text(record, "observation"), record)
        elif "action" in record:
            self._acted(text(record, "action"), {**mapping(record, "args"), **record})
        else:
            self._story.unknown_record("record", record)
        self._metrics(mapping(record, "llm_metrics"))

    def end(self) -> None:
        story = self._story
        if story.ending is None and self._status == "finished":
            story.completed("finished")
        elif story.ending is None and self._status in ("error", "stuck"):
            story.failed(f"the conversation ended as {self._status}")
        story.finish()

    def _acted(self, action: str, record: Map) -> None:
        story = self._story
        self._response(record)
        thought, source = text(record, "thought"), text(record, "source")
        match action:
            case "message":
                words = text(record, "content") or text(record, "message")
                if source == "user" or (not source and story.prompt is None):
                    story.ending = None
                    story.start_turn()
                    story.message("user", words)
                else:
                    story.message("assistant", words)
            case "finish":
                final = text(record, "final_thought") or thought or text(record, "message")
                story.message("assistant", final)
                story.completed("finish")
            case "reject":
                story.failed(thought or "the agent rejected the task")
            case "think":
                story.reasoning(thought)
            case _ if action in _SILENT:
                pass
            case _:
                story.message("assistant", thought)
                self._calls += 1
                self._open(record, _TOOLS.get(action, action))

    def _open(self, record: Map, tool: str) -> None:
        hidden = ("thought", "source", "timestamp", "id", "action", "args", "message", "tool_call_metadata", "timeout")
        arguments = {key: value for key, value in record.items() if key not in hidden and value not in (None, "")}
        self._story.call(self._call_id(record.get("id")), tool, arguments)

    def _call_id(self, identity: object) -> str:
        return f"event-{identity}" if isinstance(identity, int) else f"call-{self._calls}"

    def _observed(self, observation: str, record: Map) -> None:
        if observation in _SILENT:
            return
        extras = {**mapping(record, "extras"), **mapping(record, "extras", "metadata"), **record}
        words = text(record, "content") or text(record, "message")
        failed = observation == "error"
        code = extras.get("exit_code")
        exit_code = code if isinstance(code, int) and 0 <= code < 2**31 else None
        if failed:
            self._story.say(AgentError(message=words))
        if record.get("cause") is not None or not self._story.has_open_call:
            call_id = self._call_id(record.get("cause"))
        else:
            call_id = f"call-{self._calls}"
        if observation not in ("message", "think") and self._story.has_open_call:
            self._story.result(call_id, words, failed=failed or exit_code not in (None, 0), exit_code=exit_code)

    def _response(self, record: Map) -> None:
        """The model's answer stands with each of its calls: its usage counts once."""
        response = mapping(record, "tool_call_metadata", "model_response")
        identity, counts = text(response, "id"), mapping(response, "usage")
        if not identity or identity in self._responses or len(self._responses) > 100_000:
            return
        self._responses.add(identity)
        self._story.model = text(response, "model") or self._story.model
        if not mapping(record, "llm_metrics"):
            self._story.usage(_used(counts))

    def _metrics(self, metrics: Map) -> None:
        """Counters that add up over the session."""
        total = _used(mapping(metrics, "accumulated_token_usage"))
        cost = micros(metrics.get("accumulated_cost")) or 0
        new, spent = total.beyond(self._total), max(cost - self._cost, 0)
        self._story.usage(new, cost_micros=spent or None, price_source="reported" if spent else None)
        if total:
            self._total = total
        self._cost = max(self._cost, cost)

    def _sdk(self, kind: str, record: Map) -> None:
        story = self._story
        call_id = text(record, "tool_call_id")
        match kind:
            case "SystemPromptEvent" | "TokenEvent" | "StreamingDeltaEvent" | "CondensationSummaryEvent":
                pass
            case "MessageEvent":
                self._said(text(record, "source"), joined(get(record, "llm_message", "content")))
            case "ActionEvent":
                story.message("assistant", joined(record.get("thought")))
                story.reasoning(text(record, "reasoning_content"))
                action = mapping(record, "action")
                tool = text(record, "tool_name") or text(action, "kind")
                story.call(call_id, tool, {key: value for key, value in action.items() if key != "kind"})
                if tool == "finish":
                    story.message("assistant", text(action, "message"))
                    story.result(call_id, None)
                    story.completed("finish")
                if tool == "task_tracker":
                    story.say(PlanUpdated(items=tuple(items(action, "task_list"))))
            case "ObservationEvent" | "UserRejectObservation" | "AgentErrorEvent":
                self._returned(kind, call_id, record)
            case "ConversationStateUpdateEvent":
                self._state(text(record, "key"), record.get("value"))
            case "ConversationErrorEvent":
                story.failed(text(record, "detail") or text(record, "code") or "the conversation failed")
            case "PauseEvent" | "InterruptEvent":
                story.end_turn(cancelled=True)
            case _:
                story.unknown_record(kind, record)

    def _said(self, source: str, words: str) -> None:
        if source == "user":
            self._story.ending = None
            self._story.start_turn()
        self._story.message("user" if source == "user" else "assistant", words)

    def _returned(self, kind: str, call_id: str, record: Map) -> None:
        observation = mapping(record, "observation")
        words = joined(observation.get("content")) or text(observation, "output") or text(record, "error")
        code = observation.get("exit_code", get(observation, "metadata", "exit_code"))
        exit_code = code if isinstance(code, int) and 0 <= code < 2**31 else None
        failed = kind != "ObservationEvent" or observation.get("is_error") is True or exit_code not in (None, 0)
        status = "declined" if kind == "UserRejectObservation" else ""
        words = words or text(record, "rejection_reason")
        self._story.result(call_id, words, failed=failed, status=status, exit_code=exit_code)

    def _state(self, key: str, value: object) -> None:
        if key == "execution_status" and isinstance(value, str):
            self._status = value
        if key not in ("stats", "full_state"):
            return
        stats = mapping(value, "stats") or mapping(value)
        total, cost = Usage(), 0.0
        for metrics in mapping(stats, "usage_to_metrics").values():
            total = total.plus(_used(mapping(metrics, "accumulated_token_usage")))
            price = get(metrics, "accumulated_cost")
            cost += price if isinstance(price, int | float) else 0.0
            self._story.model = text(metrics, "model_name") or self._story.model
        counts = {
            name: getattr(total, name) for name in ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
        }
        self._metrics(
            {
                "accumulated_token_usage": {
                    "prompt_tokens": total.input_tokens, "completion_tokens": total.output_tokens, **counts
                },
                "accumulated_cost": cost,
            }
        )  # fmt: skip


class OpenHandsOutput:
    """An evaluation's output: each line is a whole session with its history, its cost and its judgement."""

    def __init__(self, story: Story) -> None:
        self._story = story

    def record(self, record: Map) -> None:
        story, reader = self._story, OpenHands(self._story)
        for event in items(record, "history"):
            reader.record(mapping(event))
        number, repo = count(record, "issue", "number"), text(record, "issue", "repo")
        story.title = text(record, "issue", "title") or text(record, "instance_id") or story.title
        if repo:
            story.labels["issue"] = f"{text(record, 'issue', 'owner')}/{repo}#{number}"
        cost = micros(get(record, "metrics", "accumulated_cost"))
        used = _used(mapping(record, "metrics", "accumulated_token_usage"))
        story.usage(used, cost_micros=cost, price_source="reported" if cost is not None else None)
        if error := text(record, "error"):
            story.failed(error)
        elif record.get("success") is False:
            story.failed(text(record, "result_explanation") or "the result was judged a failure")
        elif record.get("success") is True and story.ending is None:
            story.completed("success", message=text(record, "result_explanation"))

    def end(self) -> None:
        self._story.finish()


def key_of_output(record: Map) -> str:
    """Which run a line is, where a file holds several."""
    return msgspec.json.encode([record.get("issue"), record.get("instance_id"), record.get("base_commit")]).decode()


def _used(counts: Map) -> Usage:
    details = mapping(counts, "completion_tokens_details")
    return Usage(
        input_tokens=count(counts, "prompt_tokens"),
        cache_read_tokens=count(counts, "cache_read_tokens") or count(counts, "prompt_tokens_details", "cached_tokens"),
        cache_write_tokens=count(counts, "cache_write_tokens") or count(counts, "cache_creation_input_tokens"),
        output_tokens=count(counts, "completion_tokens"),
        reasoning_tokens=count(counts, "reasoning_tokens") or count(details, "reasoning_tokens"),
    )
