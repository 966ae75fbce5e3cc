"""How the last turn of a run ended that lost its worker before it could draw the conclusion, read from the record."""

import signal

from eventstore.contract import EventLog
from runfold.events import ClaimLost, RunResumed, TurnCompleted, TurnFailed, TurnStarted
from runner.turns.listener import Heard
from runner.turns.process import Report
from runner.turns.turn import TurnEnd


async def end_before_loss(log: EventLog, run_id: str, *, format_name: str | None) -> TurnEnd | None:
    """None where a turn was cut short by the loss, or a person has resumed the run since: then another is made.

    What the turn said of its run's completion is not in the record; exit codes, files and the agent's own end are.
    """
    ended: TurnCompleted | TurnFailed | None = None
    is_lost = False
    async for page in log.read(stream=run_id):
        for recorded in page.events:
            match recorded.event():
                case TurnCompleted() | TurnFailed() as event:
                    ended, is_lost = event, False
                case TurnStarted() | RunResumed():
                    ended = None
                case ClaimLost():
                    is_lost = True
                case _:
                    pass
    return _end_of(ended, format_name) if ended is not None and is_lost else None


def _end_of(ended: TurnCompleted | TurnFailed, format_name: str | None) -> TurnEnd:
    failed = ended.error if isinstance(ended, TurnFailed) else None
    known = signal.Signals.__members__.get(ended.signal or "")
    return TurnEnd(
        report=Report(exit_code=ended.exit_code, signal=None if known is None else int(known)),
        duration_ms=ended.duration_ms or 0,
        output_bytes=ended.output_bytes,
        output_sha256=ended.output_sha256 or "",
        timed_out=failed is not None and failed.code == "TIMED_OUT",
        heard=Heard(
            format=format_name or ("its" if failed is not None else ""),
            succeeded=failed is None,
            session_id=ended.agent_session_id,
            error=failed,
        ),
    )
