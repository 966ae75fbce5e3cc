"""What the end of a turn means: whether it failed and why, and whether it says that the work is done."""

import os
from collections.abc import Sequence
from pathlib import Path

from runfold.events import Completion, Failure
from runfold.reasons import reason_status
from runfold.workflows import CompletionRules
from runner.turn import TurnEnd


def failure_of(end: TurnEnd, argv: Sequence[str]) -> Failure | None:
    """Why the turn failed; None where it succeeded: exit 0 and, where its format has one, its own word of success."""
    report, heard = end.report, end.heard
    name = f"`{argv[0]}`" if argv else "the command"
    if report.errno is not None:
        reason = os.strerror(report.errno).lower()
        return Failure(code="SYS_LAUNCH_FAILED", message=f"{name} could not be started: {reason}")
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
