"""OpenLineage run events, a list or lines: each run id is a run; its datasets are named in its context."""

from collections.abc import Sequence

from runfold.commands import Cancel
from runfold.events import AgentError, ContextSet, Telemetry
from runner.imports.story import Story
from runner.imports.values import Map, items, mapping, moment_us, text

FORMAT = "openlineage"


def is_one(head: Sequence[Map]) -> bool:
    return any(
        text(record, "run", "runId") and text(record, "job", "name") and "eventTime" in record for record in head
    )


def key_of(record: Map) -> str:
    """Which run an event belongs to."""
    return text(record, "run", "runId")


class OpenLineage:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._datasets: dict[str, set[str]] = {"inputs": set(), "outputs": set()}

    def record(self, record: Map) -> None:
        story, run_id = self._story, key_of(record)
        story.at(record.get("eventTime"))
        if not run_id:
            story.unknown_record("record", record)
            return
        story.identity = f"openlineage:{run_id}"
        story.title = text(record, "job", "name") or story.title
        story.workflow = story.title
        if namespace := text(record, "job", "namespace"):
            story.labels["namespace"] = namespace[:500]
        self._remember(record)
        match text(record, "eventType").upper():
            case "START" | "RUNNING":
                pass
            case "COMPLETE":
                story.completed("COMPLETE")
            case "FAIL":
                message = text(record, "run", "facets", "errorMessage", "message") or "the run failed"
                story.say(AgentError(message=message))
                story.failed(message, kind="system", code="SYS_FAILED")
            case "ABORT":
                story.ending = Cancel(reason="aborted")
            case kind:
                story.say(Telemetry(name=f"openlineage.{kind.lower() or 'other'}"[:120], data=record.get("run")))

    def end(self) -> None:
        self._story.finish()

    def _remember(self, record: Map) -> None:
        if moment_us(record.get("eventTime")) is None:
            self._story.labels["time"] = "the file's: its events have none"
        for side, known in self._datasets.items():
            names = {
                f"{text(item, 'namespace')}/{text(item, 'name')}" for item in items(mapping(record), side)
            }  # fmt: skip
            if names - known and len(known) < 1000:
                known |= names
                self._story.say(ContextSet(key=side, value=sorted(known)))
