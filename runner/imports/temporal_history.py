"""Temporal workflow histories as its CLI, its UI and its replay tests write them; each activity is a step."""

from collections.abc import Sequence
from typing import Any

from runfold.commands import Cancel
from runfold.events import ContextSet, Failure, StepCancelled, StepCompleted, StepFailed, StepStarted, Telemetry
from runner.imports.story import Story
from runner.imports.values import Map, count, items, mapping, text

FORMAT = "temporal-history"
_SILENT = frozenset(
    {"WorkflowTaskScheduled", "WorkflowTaskStarted", "WorkflowTaskCompleted", "ActivityTaskCancelRequested",
     "UpsertWorkflowSearchAttributes"}
)  # fmt: skip
_STEPS = ("ActivityTask", "ChildWorkflowExecution", "Timer")


def is_one(head: Sequence[Map]) -> bool:
    events = items(head[0], "events") or items(head[0], "history", "events")
    return any("eventType" in mapping(event) and "eventId" in mapping(event) for event in events or head)


class TemporalHistory:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._events: list[Map] = []
        self._names: dict[str, str] = {}
        self._attempts: dict[str, int] = {}
        self._started: set[str] = set()

    def record(self, record: Map) -> None:
        # Some are written newest first, so that nothing can be told before the last one is read.
        events = items(record, "events") or items(record, "history", "events")
        self._events.extend(mapping(event) for event in events or [record])

    def end(self) -> None:
        story = self._story
        for event in sorted(self._events, key=lambda event: count(event, "eventId")):
            story.at(event.get("eventTime"))
            kind = _kind(text(event, "eventType"))
            self._event(kind, _attributes(event), str(count(event, "eventId")), event)
        if story.identity == "" and story.workflow is None:
            story.workflow = "temporal"
        story.finish()

    def _event(self, kind: str, said: Map, event_id: str, event: Map) -> None:
        story = self._story
        if kind in _SILENT:
            return
        if kind.startswith("WorkflowExecution"):
            self._workflow(kind.removeprefix("WorkflowExecution"), said, event)
        elif kind in ("ActivityTaskScheduled", "TimerStarted", "StartChildWorkflowExecutionInitiated"):
            self._scheduled(kind, said, event_id)
        elif kind.startswith(_STEPS):
            self._step(kind, said)
        elif kind == "WorkflowTaskFailed" or kind == "WorkflowTaskTimedOut":
            story.say(Telemetry(name=f"temporal.{kind}", data=said))
        else:
            story.unknown_record(kind, event)

    def _workflow(self, what: str, said: Map, event: Map) -> None:
        story = self._story
        message = text(said, "failure", "message")
        match what:
            case "Started":
                self._begin(said)
            case "Completed":
                story.completed("WorkflowExecutionCompleted")
                if said.get("result"):
                    story.say(ContextSet(key="result", value=said.get("result")))
            case "ContinuedAsNew":
                story.completed("continued", message=f"continued as new run {text(said, 'newExecutionRunId')}")
            case "Failed":
                story.failed(message or "the workflow failed", code="STEP_FAILED", kind="system")
            case "TimedOut":
                story.failed("the workflow timed out", code="TIMED_OUT", kind="system")
            case "Terminated":
                reason = text(said, "reason")
                story.failed(f"terminated: {reason}".rstrip(": "), code="KILLED", kind="system")
            case "Canceled":
                story.ending = Cancel(reason="cancelled in Temporal")
            case _:
                story.unknown_record(f"WorkflowExecution{what}", event)

    def _begin(self, said: Map) -> None:
        story = self._story
        name = text(said, "workflowType", "name")
        # A run that was reset keeps the id it began with, so this one's own comes first.
        run_id = text(said, "firstExecutionRunId") if not text(said, "originalExecutionRunId") else ""
        run_id = text(said, "originalExecutionRunId") or run_id
        story.identity = f"temporal:{run_id}" if run_id else ""
        story.workflow, story.title = name or "temporal", text(said, "workflowId") or name
        if task_queue := text(said, "taskQueue", "name"):
            story.labels["task_queue"] = task_queue[:500]

    def _scheduled(self, kind: str, said: Map, event_id: str) -> None:
        name = text(said, "activityType", "name") or text(said, "workflowType", "name") or "timer"
        number = text(said, "activityId") or text(said, "timerId") or text(said, "workflowId") or event_id
        self._names[event_id] = f"{number}. {name}"[:200]
        if kind == "TimerStarted":
            self._start(event_id, "timer", said.get("startToFireTimeout"))

    def _start(self, event_id: str, skill: str, given: Any, attempt: int = 1) -> None:
        if event_id in self._names:
            self._attempts[event_id] = attempt
            self._started.add(event_id)
            step = self._names[event_id]
            self._story.say(StepStarted(step=step, skill=skill, attempt=attempt, input=given))

    def _step(self, kind: str, said: Map) -> None:
        what = next(family for family in _STEPS if kind.startswith(family))
        verb = kind.removeprefix(what)
        key = "scheduledEventId" if what == "ActivityTask" else "initiatedEventId"
        event_id = str(count(said, key if what != "Timer" else "startedEventId"))
        name = self._names.get(event_id)
        if name is None:
            self._story.unknown_record(kind, said)
            return
        if verb == "Started":
            self._start(event_id, what, None, max(count(said, "attempt"), 1))
            return
        if event_id not in self._started:
            # It ended before anyone took it up, as an activity does that nobody polls for.
            self._start(event_id, what, None)
        attempt = self._attempts.get(event_id, 1)
        match verb:
            case "Completed" | "Fired":
                self._story.say(StepCompleted(step=name, attempt=attempt, output=said.get("result")))
            case "Canceled" | "Cancelled":
                self._story.say(StepCancelled(step=name, attempt=attempt, reason="cancelled"))
            case _:
                code = "TIMED_OUT" if verb == "TimedOut" else "STEP_FAILED"
                message = text(said, "failure", "message") or f"{what} {verb}"
                failure = Failure(code=code, message=message[:4000], stack_trace=_trace(said))
                self._story.say(StepFailed(step=name, attempt=attempt, error=failure))


def _trace(said: Map) -> str | None:
    return text(said, "failure", "stackTrace")[:8000] or None


def _kind(name: str) -> str:
    """`EVENT_TYPE_WORKFLOW_EXECUTION_STARTED` and `WorkflowExecutionStarted` are the same."""
    if not name.startswith("EVENT_TYPE_"):
        return name
    return "".join(word.capitalize() for word in name.removeprefix("EVENT_TYPE_").split("_"))


def _attributes(event: Map) -> Map:
    for key in event:
        if key.endswith("EventAttributes") and (found := mapping(event, key)):
            return found
    return mapping(event, "attributes")
