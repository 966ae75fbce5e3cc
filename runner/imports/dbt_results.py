"""dbt's `run_results.json`, schema versions 1 to 6: one run, each node a step with its own times."""

from collections.abc import Sequence

from runfold.events import Failure, StepCompleted, StepFailed, StepSkipped, StepStarted
from runner.imports.story import Story
from runner.imports.values import Map, get, items, mapping, micros, milliseconds, moment_us, text

FORMAT = "dbt-run-results"
_GOOD = frozenset({"success", "pass", "warn", "partial success", "no-op", "reused"})


def is_one(head: Sequence[Map]) -> bool:
    return "run-results" in text(head[0], "metadata", "dbt_schema_version") and isinstance(head[0].get("results"), list)


class DbtResults:
    def __init__(self, story: Story) -> None:
        self._story = story

    def record(self, record: Map) -> None:
        story, metadata = self._story, mapping(record, "metadata")
        results = [mapping(result) for result in items(record, "results")]
        ended = moment_us(metadata.get("generated_at"))
        elapsed = micros(record.get("elapsed_time"))
        began = moment_us(metadata.get("invocation_started_at"))
        if began is None and ended is not None:
            began = ended - (elapsed or 0)
        # A node may have been compiled before the time that dbt counts from.
        first = [us for result in results if (us := _times(result)[0]) is not None]
        story.at_us(min([us for us in (began, *first) if us is not None], default=None))
        which = text(record, "args", "which") or "run"
        story.workflow, story.title = "dbt", f"dbt {which}: {len(results)} nodes"
        invocation = text(metadata, "invocation_id")
        story.identity = f"dbt:{invocation}" if invocation else ""
        story.labels["dbt_version"] = text(metadata, "dbt_version")
        for _, event in sorted((pair for result in results for pair in _events(result)), key=lambda pair: pair[0]):
            self._say(event)
        failed = [result for result in results if _status(result) not in (*_GOOD, "skipped")]
        story.at(metadata.get("generated_at"))
        if failed:
            names = ", ".join(text(result, "unique_id") for result in failed[:5])
            what = f"{len(failed)} of {len(results)} nodes failed: {names}"
            story.failed(what, code="STEP_FAILED", kind="dependency")
        else:
            story.completed("run_results", code="ALL_STEPS_COMPLETED", message=f"{len(results)} nodes")

    def end(self) -> None:
        self._story.finish()

    def _say(self, told: tuple[int | None, "_Said"]) -> None:
        at_us, event = told
        self._story.at_us(at_us)
        self._story.say(event)


_Said = StepStarted | StepCompleted | StepFailed | StepSkipped
_Told = tuple[int | None, _Said]


def _events(result: Map) -> list[tuple[tuple[int, int], _Told]]:
    """The node's start and end, each with what orders it among all nodes."""
    name, status = text(result, "unique_id")[:200] or "node", _status(result)
    began, ended = _times(result)
    last = 2**62
    if status == "skipped":
        return [((last, 0), (None, StepSkipped(step=name, reason=text(result, "message") or "skipped")))]
    started = StepStarted(step=name, skill=name.partition(".")[0])
    duration_ms = milliseconds(result.get("execution_time"))
    message = text(result, "message")
    end: _Said
    if status in _GOOD:
        rows = get(result, "adapter_response", "rows_affected")
        output = {"status": status, "message": message, "failures": result.get("failures"), "rows_affected": rows}
        output = {key: value for key, value in output.items() if value not in (None, "")}
        end = StepCompleted(step=name, output=output, duration_ms=duration_ms)
    else:
        failure = Failure(type="dependency", code="STEP_FAILED", message=(message or status)[:4000])
        end = StepFailed(step=name, error=failure, duration_ms=duration_ms)
    if began is None:
        return [((last, 0), (None, started)), ((last, 1), (None, end))]
    return [((began, 0), (began, started)), ((ended or began, 1), (ended or began, end))]


def _times(result: Map) -> tuple[int | None, int | None]:
    began = [us for timing in items(result, "timing") if (us := moment_us(get(timing, "started_at"))) is not None]
    ended = [us for timing in items(result, "timing") if (us := moment_us(get(timing, "completed_at"))) is not None]
    return min(began, default=None), max(ended, default=None)


def _status(result: Map) -> str:
    if status := text(result, "status"):
        return status
    # Before its schema had a status, dbt had an error and flags.
    if result.get("error"):
        return "error"
    return "skipped" if result.get("skip") is True else "fail" if result.get("fail") else "success"
