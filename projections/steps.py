"""The steps of a run, with their tries: read from the run's own fold, so that they never tell another story."""

from typing import Any

import msgspec

from eventstore.sqlite3_module import sqlite3
from projections.engine.view import decode_run
from runfold.envelope import time_text
from runfold.events import Failure, Json
from runfold.report import usd
from runfold.state import Run
from runfold.step_states import PENDING, StepState, StepStatus

LIMIT_MAX = 200


class StepTry(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt; the last one of a step at work has no end."""

    attempt: int
    status: StepStatus
    started_at: str | None
    duration_ms: int | None
    cache_hit: bool
    error: Failure | None


class StepItem(msgspec.Struct, frozen=True, kw_only=True):
    """`attempts` holds the last ones, the newest last; `attempt` is the number of the newest."""

    id: str
    needs: tuple[str, ...]
    skill: str | None
    status: StepStatus
    attempt: int
    attempts: tuple[StepTry, ...]
    started_at: str | None
    ended_at: str | None
    duration_ms: int | None
    cache_hit: bool
    error: Failure | None
    reason: str
    because_of: str | None
    turns: int
    tokens: int
    cost_usd: float | None


class StepDetail(StepItem, frozen=True, kw_only=True):
    """With what went in and came out: whole where it is small, else its size and its beginning."""

    input: Json
    output: Json
    cache_key: str | None
    metadata: dict[str, Json]


class StepList(msgspec.Struct, frozen=True, kw_only=True):
    """In the order of the run's graph, then in that of their first events."""

    items: list[StepItem]
    total: int
    next_cursor: str | None


def list_steps(
    connection: sqlite3.Connection,
    run_id: str,
    *,
    tenant: str | None,
    status: tuple[str, ...] = (),
    limit: int = LIMIT_MAX,
    offset: int = 0,
) -> StepList | None:
    """None where the run is unknown or of another tenant."""
    run = _run(connection, run_id, tenant)
    return None if run is None else steps_of(run, status=status, limit=limit, offset=offset)


def get_step(connection: sqlite3.Connection, run_id: str, step: str, *, tenant: str | None) -> StepDetail | None:
    run = _run(connection, run_id, tenant)
    return None if run is None else step_of(run, step)


def steps_of(run: Run, *, status: tuple[str, ...] = (), limit: int = LIMIT_MAX, offset: int = 0) -> StepList:
    """The steps of a run as it is folded here, now or at a moment of its past."""
    names = [name for name in _names(run) if not status or run.step_states.get(name, PENDING).status in status]
    page = names[offset : offset + limit]
    is_last = offset + limit >= len(names)
    return StepList(
        items=[StepItem(**_fields(run, name)) for name in page],
        total=len(names),
        next_cursor=None if is_last else str(offset + limit),
    )


def step_of(run: Run, step: str) -> StepDetail | None:
    """None where the run has no such step."""
    if step not in _names(run):
        return None
    state = run.step_states.get(step, PENDING)
    more: dict[str, Any] = {
        "input": state.input,
        "output": state.output,
        "cache_key": state.cache_key,
        "metadata": state.metadata,
    }
    return StepDetail(**_fields(run, step), **more)


def _run(connection: sqlite3.Connection, run_id: str, tenant: str | None) -> Run | None:
    row = connection.execute(
        "SELECT body FROM runs WHERE run_id = ?1 AND (?2 IS NULL OR tenant = ?2)", (run_id, tenant)
    ).fetchone()
    return None if row is None else decode_run(row[0])


def _names(run: Run) -> list[str]:
    return list(dict.fromkeys([*(spec.id for spec in run.steps), *run.step_states]))


def _fields(run: Run, name: str) -> dict[str, Any]:
    state = run.step_states.get(name, PENDING)
    spec = next((spec for spec in run.steps if spec.id == name), None)
    return {
        "id": name,
        "needs": () if spec is None else spec.needs,
        "skill": state.skill or (None if spec is None else spec.skill),
        "status": state.status,
        "attempt": state.attempt,
        "attempts": _tries(state),
        "started_at": _time(state.started_at_us),
        "ended_at": _time(state.ended_at_us),
        "duration_ms": state.duration_ms,
        "cache_hit": state.cache_hit,
        "error": state.error,
        "reason": state.reason,
        "because_of": state.because_of,
        "turns": state.turns,
        "tokens": state.tokens,
        "cost_usd": usd(state.cost_micros),
    }


def _tries(state: StepState) -> tuple[StepTry, ...]:
    over = tuple(
        StepTry(
            attempt=it.attempt,
            status=it.status,
            started_at=_time(it.started_at_us),
            duration_ms=it.duration_ms,
            cache_hit=it.cache_hit,
            error=it.error,
        )
        for it in state.attempts
    )
    if state.status != "running":
        return over
    now = StepTry(
        attempt=state.attempt,
        status="running",
        started_at=_time(state.started_at_us),
        duration_ms=None,
        cache_hit=False,
        error=None,
    )
    return (*over, now)


def _time(us: int | None) -> str | None:
    return None if us is None else time_text(us)
