"""Durable questions to a person: asked, granted, denied or expired exactly once, and bound to what was asked."""

import hashlib
from typing import NoReturn

import msgspec

from runfold.closing import close_all, give_back
from runfold.commands import Deny, Expire, Grant, RequestApproval
from runfold.ending import check_driver
from runfold.envelope import time_text, time_us
from runfold.errors import BadRequest, NotAllowed, NotFound
from runfold.events import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRequested,
    CostEstimated,
    Event,
    Json,
    PauseRequested,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStopped,
)
from runfold.evolve import evolve
from runfold.limits import amount, check_room, limits_of, more_turns, words
from runfold.reasons import sentence
from runfold.state import START, Approval, LimitHit, Run

OPEN_APPROVALS_MAX = 20  # What ends a run expires them all in one append.
APPROVAL_SECONDS = 24 * 3_600  # A limit that asks waits a day for its answer.
ID_CHARACTERS_MAX = 100

_encode = msgspec.json.Encoder(order="deterministic").encode


def ask_for_more(run: Run, hit: LimitHit, now_us: int) -> ApprovalRequested:
    """The question of a limit that asks: as much again on top of what is used."""
    more: float | None = hit.actual + hit.threshold
    go_on = f"Go on up to {amount(hit.limit, hit.actual + hit.threshold)}?"
    if hit.scope in ("workflow", "tenant", "day"):
        # A budget is everybody's: one run's answer lets that run go on, and gives nobody more.
        more, go_on = None, "Let this run go on all the same?"
    whose = "" if hit.scope == "run" else f" of the {hit.scope.replace(':', ' ', 1)}"
    used = words(hit.limit, hit.actual, hit.threshold)
    content: dict[str, Json] = {"run_id": run.run_id, "kind": "limit", "limit": hit.limit, "scope": hit.scope,
                                "threshold": hit.threshold, "actual": hit.actual, "more": more}  # fmt: skip
    return ApprovalRequested(
        approval_id=next_id(run),
        kind="limit",
        summary=f"{hit.limit.replace('_', ' ')}{whose}: {used} is used. {go_on}",
        amount_micros=round(more * 1_000_000) if hit.limit == "cost" and more is not None else None,
        digest=digest_of(content),
        expires_at=time_text(now_us + APPROVAL_SECONDS * 1_000_000),
    )


def ask_to_start(run_id: str, order: RunQueued, estimated: CostEstimated | None, now_us: int) -> ApprovalRequested:
    """The question before a run starts, bound to the whole order: what is granted is this run and no other."""
    amount = None if estimated is None else estimated.high_micros
    content: dict[str, Json] = {"run_id": run_id, "kind": START, "amount_micros": amount,
                                "order": msgspec.to_builtins(order)}  # fmt: skip
    return ApprovalRequested(
        approval_id="a1",
        kind=START,
        summary=order.approval or "",
        amount_micros=amount,
        digest=digest_of(content),
        expires_at=time_text(now_us + APPROVAL_SECONDS * 1_000_000),
    )


def request(run: Run, command: RequestApproval, now_us: int) -> tuple[Event, ...]:
    """Ask, and pause; a turn that is open goes on to its end first."""
    check_driver(run, command.claim, "ask for an approval of")
    if run.status not in ("running", "pausing"):
        raise NotAllowed(
            f"run `{run.run_id}` is {run.status} and cannot ask", hint="only a running run can", run_id=run.run_id
        )
    if len(run.open_approvals) >= OPEN_APPROVALS_MAX:
        raise NotAllowed(
            f"run `{run.run_id}` waits for {OPEN_APPROVALS_MAX} approvals already",
            hint=f"`runfold approve {run.run_id} {run.open_approvals[0]}` answers the first",
            run_id=run.run_id,
        )
    name = command.approval_id or next_id(run)
    if len(name) > ID_CHARACTERS_MAX or name in run.approvals:
        raise NotAllowed(f"approval `{name[:80]}` of run `{run.run_id}` exists already", hint="take another id",
                         run_id=run.run_id)  # fmt: skip
    if command.expires_at is not None and _time_us(command.expires_at) <= now_us:
        raise BadRequest(f"expires_at `{command.expires_at}` is past", hint="leave it out for no end")
    content: dict[str, Json] = {"run_id": run.run_id, "kind": command.kind, "summary": command.summary,
                                "amount_micros": command.amount_micros}  # fmt: skip
    asked = ApprovalRequested(
        approval_id=name,
        kind=command.kind,
        summary=command.summary,
        amount_micros=command.amount_micros,
        digest=command.digest or digest_of(content),
        expires_at=command.expires_at,
    )
    waits = RunPaused(reason=command.summary, waiting_on=f"approval:{name}")
    if run.is_driven and run.turn_open:
        return (asked,) if run.status == "pausing" else (asked, PauseRequested(reason=command.summary))
    return (asked, waits, *give_back(run))


def grant(run: Run, command: Grant, now_us: int) -> tuple[Event, ...]:
    asked = _pending(run, command.approval_id)
    if command.digest is not None and command.digest != asked.digest:
        raise NotAllowed(
            f"what approval `{command.approval_id}` of run `{run.run_id}` asks is not what you answered",
            hint="look at it again",
            run_id=run.run_id,
        )
    if _is_past(asked, now_us):
        _refuse_late(run, command.approval_id)
    limits = dict(command.limits)
    cost = command.amount_micros
    hit = run.hit
    if hit is not None and asked.kind == "limit":
        key = hit.limit if not hit.scope.startswith("step:") else f"{hit.scope}:{hit.limit}"
        if hit.scope == "run" or hit.scope.startswith("step:"):
            more = cost / 1_000_000 if cost is not None and hit.limit == "cost" else hit.actual + hit.threshold
            limits.setdefault(key, {"max": more, "on_exceed": _rule(run, hit)})
    granted = ApprovalGranted(approval_id=command.approval_id, comment=command.comment, amount_micros=cost)
    # Where the turn has not ended yet, nobody has to pause any more.
    in_time = run.status == "pausing" and hit is None and run.open_approvals == (command.approval_id,)
    if not _waits_for(run, command.approval_id) and not in_time:
        return (granted,)
    check_room(run, limits)
    turns = more_turns(run, limits)
    resumed = RunResumed(reason=command.comment or "approved", driver=command.driver, limits=limits, max_turns=turns)
    return (granted, resumed)


def deny(run: Run, command: Deny, now_us: int) -> tuple[Event, ...]:
    asked = _pending(run, command.approval_id)
    if _is_past(asked, now_us):
        _refuse_late(run, command.approval_id)
    denied = ApprovalDenied(approval_id=command.approval_id, comment=command.comment)
    return (denied, *_stop(run, denied, "APPROVAL_DENIED", command.comment, now_us))


def expire(run: Run, command: Expire, now_us: int) -> tuple[Event, ...]:
    asked = _pending(run, command.approval_id)
    if not _is_past(asked, now_us):
        raise NotAllowed(
            f"approval `{command.approval_id}` of run `{run.run_id}` has not expired",
            hint=f"it is open until {asked.expires_at}" if asked.expires_at else "it never expires",
            run_id=run.run_id,
        )
    expired = ApprovalExpired(approval_id=command.approval_id)
    return (expired, *_stop(run, expired, "APPROVAL_EXPIRED", "", now_us))


def expire_overdue(run: Run, now_us: int) -> tuple[Event, ...]:
    """The first question that nobody answered in time; it stops the run, which closes the others."""
    for name, asked in run.approvals.items():
        if asked.status == "pending" and _is_past(asked, now_us):
            return expire(run, Expire(approval_id=name), now_us)
    return ()


def digest_of(content: Json) -> str:
    """What is asked, as one number: an answer that names another one is an answer to something else."""
    return hashlib.sha256(_encode(content)).hexdigest()


def next_id(run: Run) -> str:
    """Short, for people to type: `a1`, `a2` …"""
    number = run.approvals_made + 1
    while f"a{number}" in run.approvals:
        number += 1
    return f"a{number}"


def _pending(run: Run, approval_id: str) -> Approval:
    asked = run.approvals.get(approval_id)
    if asked is None:
        open_ones = ", ".join(run.open_approvals) or "none"
        raise NotFound(
            f"run `{run.run_id}` has no approval `{approval_id[:80]}`", hint=f"open are: {open_ones}", run_id=run.run_id
        )
    if asked.status != "pending":
        raise NotAllowed(
            f"approval `{approval_id}` of run `{run.run_id}` is already {asked.status}",
            hint="it is answered once; `runfold status` shows what came of it",
            run_id=run.run_id,
        )
    return asked


def _stop(
    run: Run, answer: ApprovalDenied | ApprovalExpired, code: str, comment: str, now_us: int
) -> tuple[Event, ...]:
    if run.status in ("cancelling", "stopping") or run.is_resting:
        return ()
    after = evolve(run, answer, at_us=now_us)
    asked = run.approvals[answer.approval_id]
    stopped = RunStopped(reason_code=code, condition=asked.kind, message=comment or sentence(code))
    return (*close_all(after, reason="the run is stopped"), stopped)


def _waits_for(run: Run, approval_id: str) -> bool:
    return run.status == "paused" and run.waiting_on == f"approval:{approval_id}"


def _rule(run: Run, hit: LimitHit) -> str:
    """What was to follow goes on to follow."""
    return next((it.on_exceed for it in limits_of(run) if (it.limit, it.scope) == (hit.limit, hit.scope)), "ask")


def _is_past(asked: Approval, now_us: int) -> bool:
    return asked.expires_at is not None and _time_us(asked.expires_at) <= now_us


def _time_us(text: str) -> int:
    try:
        return time_us(text)
    except ValueError:
        raise BadRequest(f"`{text[:80]}` is not a time", hint="write 2026-01-31T12:00:00Z") from None


def _refuse_late(run: Run, approval_id: str) -> NoReturn:
    raise NotAllowed(f"approval `{approval_id}` of run `{run.run_id}` has expired", hint="ask again", run_id=run.run_id)
