"""GitHub Actions: the payloads of workflow runs, jobs and checks, and the API's list of a run's jobs.

A job that stands alone is a run whose steps are its steps; in a list of jobs each job is a step of the workflow's run.
A payload that was sent before the end is a recording without an end, and another one than that of the end.
"""

from collections.abc import Sequence
from typing import Any

from runfold.commands import Cancel
from runfold.events import Failure, StepCancelled, StepCompleted, StepFailed, StepSkipped, StepStarted
from runner.imports.story import Story
from runner.imports.values import Map, counted, get, items, mapping, moment_us, text

ID_MAX = 2**53 - 1
FORMAT = "github-actions"
_GOOD = frozenset({"success", "neutral"})


def is_one(head: Sequence[Map]) -> bool:
    first = head[0]
    if any(isinstance(first.get(key), dict) for key in ("workflow_run", "workflow_job", "check_run")):
        return True
    if any("run_id" in mapping(job) and "steps" in mapping(job) for job in items(first, "jobs")):
        return True
    return "workflow_id" in first and "run_attempt" in first


class GithubActions:
    def __init__(self, story: Story) -> None:
        self._story = story

    def record(self, record: Map) -> None:
        story = self._story
        if repository := text(record, "repository", "full_name"):
            story.labels["repository"] = repository
        if jobs := items(record, "jobs"):
            self._jobs([mapping(job) for job in jobs])
        elif job := mapping(record, "workflow_job"):
            self._head("job", job, text(job, "workflow_name"))
            for step in items(job, "steps"):
                self._step(mapping(step), counted(step, "number") or 0)
            self._conclude(job)
        elif check := mapping(record, "check_run"):
            self._head("check", check, text(check, "app", "name"))
            self._conclude(check)
        elif run := mapping(record, "workflow_run") or record:
            self._head("run", run, text(run, "name") or text(record, "workflow", "name"))
            self._conclude(run)

    def end(self) -> None:
        self._story.finish()

    def _head(self, what: str, found: Map, workflow: str) -> None:
        story = self._story
        story.at(found.get("created_at"))
        story.at(found.get("run_started_at") or found.get("started_at"))
        story.workflow = workflow or "github-actions"
        commit = text(found, "head_commit", "message").partition("\n")[0]
        story.title = text(found, "display_title") or text(found, "name") or commit or story.workflow
        attempt = counted(found, "run_attempt") or 1
        status = text(found, "status")
        ended = "" if status == "completed" else f":{status}"
        story.identity = f"github:{what}:{counted(found, 'id', most=ID_MAX)}:{attempt}{ended}"
        for label, key in (("branch", "head_branch"), ("commit", "head_sha"), ("url", "html_url"), ("event", "event")):
            if value := text(found, key):
                story.labels[label] = value[:500]

    def _jobs(self, jobs: list[Map]) -> None:
        story, first = self._story, jobs[0]
        self._head("run", {**first, "id": first.get("run_id"), "status": "completed"}, text(first, "workflow_name"))
        story.title = text(first, "workflow_name") or story.title
        for number, job in enumerate(sorted(jobs, key=_started), 1):
            self._step(job, number)
        unfinished = [job for job in jobs if text(job, "status") != "completed"]
        story.identity += ":in_progress" if unfinished else ""
        conclusions = [text(job, "conclusion") for job in jobs]
        bad = [conclusion for conclusion in conclusions if conclusion not in (*_GOOD, "skipped")]
        if not unfinished:
            self._conclude({"status": "completed", "conclusion": bad[0] if bad else "success"})

    def _step(self, step: Map, number: int) -> None:
        story, status, conclusion = self._story, text(step, "status"), text(step, "conclusion")
        if status in ("queued", "waiting", "pending"):
            return
        name = f"{number}. {text(step, 'name')}"[:200]
        if conclusion == "skipped":
            story.say(StepSkipped(step=name, reason="skipped"))
            return
        story.at(step.get("started_at"))
        story.say(StepStarted(step=name, skill=text(step, "runner_name") or None))
        if status != "completed":
            return
        story.at(step.get("completed_at"))
        duration_ms = _duration(step)
        if conclusion in _GOOD:
            story.say(StepCompleted(step=name, duration_ms=duration_ms))
        elif conclusion == "cancelled":
            story.say(StepCancelled(step=name, reason="cancelled"))
        else:
            failure = Failure(code=_code(conclusion), message=f"{text(step, 'name')}: {conclusion}"[:500])
            story.say(StepFailed(step=name, error=failure, duration_ms=duration_ms))

    def _conclude(self, found: Map) -> None:
        story, conclusion = self._story, text(found, "conclusion")
        if text(found, "status") != "completed":
            return
        story.at(found.get("completed_at") or found.get("updated_at"))
        if conclusion in (*_GOOD, "skipped"):
            story.completed(conclusion, message=f"concluded as {conclusion}")
        elif conclusion == "cancelled":
            story.ending = Cancel(reason="cancelled on GitHub")
        else:
            story.failed(f"concluded as {conclusion or 'nothing'}", code=_code(conclusion), kind="system")


def _code(conclusion: str) -> str:
    return {"timed_out": "TIMED_OUT", "startup_failure": "SYS_LAUNCH_FAILED"}.get(conclusion, "STEP_FAILED")


def _duration(step: Map) -> int | None:
    started, completed = moment_us(get(step, "started_at")), moment_us(get(step, "completed_at"))
    return None if started is None or completed is None else max(completed - started, 0) // 1000


def _started(job: Map) -> Any:
    return moment_us(job.get("started_at")) or 0
