"""Every reason a run can have for its status: the code, one sentence, and what to do next.

Two families are open: a program may say `SYS_<ANYTHING>` or `DEP_<ANYTHING>` when it fails.
"""

import re

import msgspec


class Reason(msgspec.Struct, frozen=True):
    code: str
    status: str
    sentence: str
    next_step: str = ""


_AGAIN = "`runfold retry RUN` starts a new run with the same command"
_ON = "`runfold resume RUN` goes on from here, `runfold cancel RUN` ends it"
_SEE = "`runfold status RUN` shows what happened; `runfold retry RUN` tries again"
_WATCH = "`runfold watch RUN` follows it"

_TABLE = (
    Reason("QUEUED", "queued", "Waiting for a worker", "`runfold up` starts a server whose worker takes it"),
    Reason("STARTING", "queued", "A worker is starting it", _WATCH),
    Reason("WORKING", "running", "Working", _WATCH),
    Reason("GENERATING", "running", "Generating", _WATCH),
    Reason("AUDITING", "running", "Checking what was made", _WATCH),
    Reason("RETRYING", "running", "Trying again", _WATCH),
    Reason("PAUSING", "pausing", "Pauses when the turn ends", _WATCH),
    Reason("PAUSED", "paused", "Paused", "`runfold resume RUN` goes on"),
    Reason(
        "AWAITING_APPROVAL", "paused", "Waiting for a person's answer", "`runfold approve RUN` or `runfold deny RUN`"
    ),
    Reason("CANCELLING", "cancelling", "Being cancelled", _WATCH),
    Reason("STOPPING", "stopping", "Stopping", _WATCH),
    Reason("PARTIAL_SUCCESS", "completed", "Done, but not every unit was approved", _SEE),
    Reason("ALL_STEPS_COMPLETED", "completed", "Every step is completed"),
    Reason("COMPLETION_DETECTED", "completed", "The output says that the work is done"),
    Reason("STOP_FILE", "completed", "The stop file appeared"),
    Reason("EXIT_ZERO", "completed", "The command ended with exit code 0"),
    Reason("REPORTED", "completed", "Its reporter says that the work is done"),
    Reason("RETRY_RATE_EXCEEDED", "stopped", "Too many units needed another attempt", _ON),
    Reason("REJECT_RATE_EXCEEDED", "stopped", "Too many units were rejected", _ON),
    Reason("CONSECUTIVE_FAILS", "stopped", "Too many failures in a row", _ON),
    Reason("CIRCUIT_BREAKER", "stopped", "A circuit breaker opened", _ON),
    Reason("USER_INTERRUPT", "stopped", "Interrupted by Ctrl-C or SIGTERM", _ON),
    Reason("COST_LIMIT_EXCEEDED", "stopped", "The cost limit is reached", _ON),
    Reason("TOKEN_LIMIT_EXCEEDED", "stopped", "The token limit is reached", _ON),
    Reason("TIME_LIMIT_EXCEEDED", "stopped", "The run's time is used up", _ON),
    Reason("MAX_TURNS_REACHED", "stopped", "All turns are used and no completion was seen", _ON),
    Reason("STUCK_LOOP", "stopped", "The agent repeats itself", _ON),
    Reason("APPROVAL_DENIED", "stopped", "A person denied the approval", _ON),
    Reason("APPROVAL_EXPIRED", "stopped", "Nobody answered the approval in time", _ON),
    Reason("CANCELLED_BY_USER", "cancelled", "Cancelled", _AGAIN),
    Reason(
        "KILL_INCOMPLETE",
        "cancelled",
        "Cancelled, but some of its processes survived",
        "`runfold status RUN` names the survivors; end them by hand",
    ),
    Reason(
        "SYS_MANIFEST_INVALID", "failed", "The workflow's description is not valid", "mend it, then `runfold retry RUN`"
    ),
    Reason(
        "SYS_WRITE_ERROR",
        "failed",
        "A file could not be written",
        "make room or mend the rights, then `runfold retry RUN`",
    ),
    Reason(
        "SYS_LAUNCH_FAILED", "failed", "The command could not be started", "check the command, then `runfold retry RUN`"
    ),
    Reason("DEP_API_UNAVAILABLE", "failed", "An API it needs does not answer", "wait, then `runfold retry RUN`"),
    Reason("EXIT_NONZERO", "failed", "The command ended with a non-zero exit code", _SEE),
    Reason("CRASHED", "failed", "The command was ended by a signal", _SEE),
    Reason("KILLED", "failed", "The command was killed from outside", _SEE),
    Reason("TIMED_OUT", "failed", "A turn or step took too long", _SEE),
    Reason("WORKER_LOST", "failed", "The worker that drove it is gone", _AGAIN),
    Reason("RECOVERY_LIMIT", "failed", "Its workers were lost too often", _SEE),
    Reason("NO_TERMINAL_EVENT", "failed", "The agent ended without saying how it went", _SEE),
    Reason("TURN_FAILED", "failed", "A turn failed", _SEE),
    Reason("STEP_FAILED", "failed", "A step failed", _SEE),
)
REASONS: dict[str, Reason] = {reason.code: reason for reason in _TABLE}

_ALL_APPROVED = re.compile(r"ALL_([A-Z0-9_]{1,64})S_APPROVED")
_TOOL_FAILED = re.compile(r"DEP_([A-Z0-9_]{1,64})_FAIL")
_OPEN_FAMILY = re.compile(r"(SYS|DEP)_[A-Z0-9][A-Z0-9_]{0,119}")

LIMIT_CODES: dict[str, str] = {
    "cost": "COST_LIMIT_EXCEEDED",
    "tokens": "TOKEN_LIMIT_EXCEEDED",
    "time": "TIME_LIMIT_EXCEEDED",
    "turns": "MAX_TURNS_REACHED",
    "retry_rate": "RETRY_RATE_EXCEEDED",
    "reject_rate": "REJECT_RATE_EXCEEDED",
    "consecutive_fails": "CONSECUTIVE_FAILS",
    "stuck_loop": "STUCK_LOOP",
}


def find_reason(code: str) -> Reason | None:
    """What a code means, a member of an open family included; None for a code that nobody knows."""
    known = REASONS.get(code)
    if known is not None:
        return known
    if approved := _ALL_APPROVED.fullmatch(code):
        return Reason(code, "completed", f"Every {approved[1].lower().replace('_', ' ')} is approved")
    if tool := _TOOL_FAILED.fullmatch(code):
        return Reason(code, "failed", f"The tool {tool[1].lower()} failed", "check the tool, then `runfold retry RUN`")
    if is_open_code(code):
        whose = "The system" if code.startswith("SYS_") else "Something it depends on"
        return Reason(code, "failed", f"{whose} failed", _SEE)
    return None


def reason_status(code: str) -> str | None:
    """The status a code belongs to; None for a code that nobody knows."""
    reason = find_reason(code)
    return reason.status if reason else None


def is_open_code(code: str | None) -> bool:
    """Whether a program may give this code for its failure: `SYS_*` or `DEP_*`."""
    return code is not None and _OPEN_FAMILY.fullmatch(code) is not None


def sentence(code: str) -> str:
    """One sentence for people; the code itself where nothing better is known."""
    reason = find_reason(code)
    return reason.sentence if reason else code


def approved_code(unit_name: str) -> str:
    """The code of a run all of whose units are approved: `ALL_FRAMES_APPROVED`."""
    word = re.sub(r"[^A-Z0-9]+", "_", unit_name.upper()).strip("_") or "UNIT"
    return f"ALL_{word[:64]}S_APPROVED"


def limit_code(limit: str) -> str:
    """The code of a run that stops at this limit: `cost_usd_max` and `cost` both are the cost's."""
    for word, code in LIMIT_CODES.items():
        if limit.startswith(word):
            return code
    return "TIME_LIMIT_EXCEEDED" if limit.startswith("wall") else "CIRCUIT_BREAKER"
