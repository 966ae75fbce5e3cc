"""What the end of a turn means: for the turn, whether it failed and why; for its run, whether and how that ends."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runfold.commands import Command, Complete, Fail, Stop
from runfold.events import Completion, Failure, TurnCancelled, TurnCompleted, TurnEnded, TurnFailed
from runfold.reasons import reason_status
from runfold.state import Run
from runfold.workflows import CompletionRules
from runner.launch import Launch
from runner.turns.turn import TurnEnd


def judge(launch: Launch, run: Run, end: TurnEnd, claim: int, *, failed_turns: int) -> Command | None:
    """How the run ends after this turn; None where another turn is to come."""
    code = end.report.exit_code
    completion = seen_complete(launch.completion, end, launch.cwd)
    if completion is not None and completion.rule == "stop_file":
        return Complete(claim=claim, reason_code="STOP_FILE", exit_code=code, completion=completion)
    error = failure_of(end, launch.argv)
    if error is not None and (completion is None or completion.rule != "exit_code"):
        if failed_turns <= launch.turn_retries:
            return None
        return Fail(claim=claim, reason_code=error.code, error=error)
    if completion is not None:
        return Complete(claim=claim, reason_code="COMPLETION_DETECTED", exit_code=code, completion=completion)
    # A run that had used its turns may have been given more when it was resumed.
    most = max(launch.max_turns, run.max_turns)
    made = run.turns - run.turns_cut
    if made < most:
        return None
    if launch.completion.is_empty:
        return Complete(claim=claim, reason_code="EXIT_ZERO", exit_code=code)
    return Stop(claim=claim, reason_code="MAX_TURNS_REACHED", condition="turns", threshold=most, actual=made)


def turn_ended(run: Run, end: TurnEnd, *, cut_short: bool) -> TurnEnded:
    """The event of the turn's end; what was asked for decides, never how the command happened to exit."""
    report = end.report
    common: dict[str, Any] = {
        "turn": run.turn,
        "exit_code": report.exit_code,
        "signal": report.signal_name,
        "duration_ms": end.duration_ms,
        "output_bytes": end.output_bytes,
        "output_sha256": end.output_sha256,
        "output_offset": end.output_offset,
        "agent_session_id": end.heard.session_id,
    }
    if cut_short or run.status in ("cancelling", "stopping"):
        return TurnCancelled(**common, receipt=report.receipt)
    error = failure_of(end, ())
    return TurnCompleted(**common) if error is None else TurnFailed(**common, error=error)


def failure_of(end: TurnEnd, argv: Sequence[str]) -> Failure | None:
    """Why the turn failed; None where it succeeded: exit 0 and, where its format has one, its own word of success."""
    report, heard = end.report, end.heard
    name = f"`{argv[0]}`" if argv else "the command"
    if report.errno is not None:
        reason = os.strerror(report.errno).lower()
        return Failure(code="SYS_LAUNCH_FAILED", message=f"{name} could not be started: {reason}")
    if end.output_error:
        message = f"the output of {name} could not be kept: {end.output_error}"
        return Failure(code="SYS_WRITE_ERROR", message=message, retryable=True)
    if end.timed_out:
        message = f"{name} took longer than its turn may: {end.duration_ms / 1000:.0f} s"
        return Failure(type="agent", code="TIMED_OUT", message=message)
    if report.signal_name is not None:
        code = "KILLED" if report.signal_name in ("SIGKILL", "SIGTERM") else "CRASHED"
        return Failure(type="agent", code=code, message=f"{name} ended by {report.signal_name}")
    if report.exit_code != 0:
        error = Failure(type="agent", code="EXIT_NONZERO", message=f"{name} exited with {report.exit_code}")
        return _in_own_words(heard.error, error)
    if not heard.format or heard.succeeded:
        return None
    if heard.succeeded is None:
        message = f"{name} exited with 0, and its {heard.format} output has no end"
        return Failure(type="agent", code="NO_TERMINAL_EVENT", message=message)
    error = Failure(type="agent", code="TURN_FAILED", message=f"{name} says itself that it failed")
    return _in_own_words(heard.error, error)


def seen_complete(rules: CompletionRules, end: TurnEnd, cwd: str | None) -> Completion | None:
    """The first rule that the turn's end fulfils, or None."""
    if rules.stop_file and (Path(cwd or ".") / rules.stop_file).exists():
        return Completion(detected=True, rule="stop_file", line=rules.stop_file)
    if end.heard.completion is not None:
        return end.heard.completion
    if rules.exit_code is not None and end.report.exit_code == rules.exit_code:
        return Completion(detected=True, rule="exit_code", line=str(rules.exit_code))
    if rules.format_end and end.heard.succeeded:
        return Completion(detected=True, rule="format_end", line=end.heard.format)
    return None


def _in_own_words(said: Failure | None, otherwise: Failure) -> Failure:
    """The program's own error, under a code that a failed run may have."""
    if said is None:
        return otherwise
    code = said.code if reason_status(said.code) == "failed" else otherwise.code
    return Failure(
        type=said.type,
        code=code,
        message=said.message or otherwise.message,
        retryable=said.retryable,
        diagnostic_path=said.diagnostic_path,
    )
