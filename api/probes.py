"""Probes: whether the process is alive, and whether it is ready, or in what it is degraded."""

import asyncio

import msgspec
from aiohttp import web

from api.answers import json_response
from api.routes import Route
from api.service import SERVICE
from eventstore.journal import Journal, journal_of
from eventstore.proof.verified import Verified, read_verified
from projections.engine.checkpoints import read_checkpoints
from projections.engine.health import public_error, remedy_of, troubles_of
from projections.engine.underway import read_underway
from projections.engine.views import BEHIND_MAX
from runfold.errors import Unavailable

BEHIND_SECONDS_MAX = 15.0  # A new leader is there in 4 to 9 s.


class Health(msgspec.Struct, frozen=True):
    status: str


class ViewTrouble(msgspec.Struct, frozen=True):
    view: str
    state: str
    position: int
    error: str
    remedy: str


class LastProof(msgspec.Struct, frozen=True):
    """When the folder was last proved, up to which position, and how much did not match; `remedy` where something."""

    at: str
    position: int
    ok: bool
    faults: int
    remedy: str = ""


class JournalTrouble(msgspec.Struct, frozen=True):
    """Which processes keep the log's journal from being taken into the log, so that it grows; `pids` are theirs."""

    size_bytes: int
    pids: list[int]
    error: str
    remedy: str


class Rebuilding(msgspec.Struct, frozen=True):
    """How far a fold of the views is, in positions of the log."""

    done: int
    total: int


class Readiness(msgspec.Struct, frozen=True):
    """`degraded` serves, and what a listed view shows stays as it was at its position until the remedy.

    `verified` is null before the first proof. `log_behind_seconds`: since when the servers of a replicated log have not
    answered; what is read meanwhile is as it was then, and nothing can be appended. `damaged` counts the runs, and the
    log itself as one, that this server found altered when it read them and does not serve. `journal` is null while the
    log's journal is within its bound. `rebuilding` is null while no views are folded anew, `folding` while they are not
    far behind the log: lists and sums are old meanwhile, and say so; commands and single runs are as ever.
    """

    status: str
    views: list[ViewTrouble]
    verified: LastProof | None = None
    log_behind_seconds: float = 0.0
    damaged: int = 0
    journal: JournalTrouble | None = None
    rebuilding: Rebuilding | None = None
    folding: Rebuilding | None = None


async def get_livez(_request: web.Request) -> web.Response:
    return json_response(Health("alive"))


async def get_readyz(request: web.Request) -> web.Response:
    """Ready is whoever can read the log and is not about to close."""
    service = request.app[SERVICE]
    if service.closing.is_set():
        raise Unavailable("the server is closing", hint="try again in a second")
    head = (await service.log.bounds()).last
    checkpoints, freshness = await service.views.query(read_checkpoints)
    underway = await asyncio.to_thread(read_underway, service.data)
    views = [
        ViewTrouble(trouble.view, trouble.state, trouble.position, public_error(trouble), remedy_of(trouble, underway))
        for trouble in troubles_of(checkpoints)
    ]
    proof = _last_proof(await asyncio.to_thread(read_verified, service.data))
    behind_seconds, damaged = round(service.log.behind_seconds, 1), service.log.damaged
    journal = _journal_trouble(await asyncio.to_thread(journal_of, service.data))
    is_proved = (proof is None or proof.ok) and not damaged
    is_followed = not views and freshness.behind <= BEHIND_MAX
    is_sound = is_followed and is_proved and behind_seconds <= BEHIND_SECONDS_MAX and journal is None
    status = "ready" if is_sound else "degraded"
    rebuilding = None if underway is None else Rebuilding(underway.done, underway.total)
    # The head was read before, and the views may be further by now.
    folding = None if freshness.behind <= BEHIND_MAX else Rebuilding(max(0, head - freshness.behind), head)
    return json_response(Readiness(status, views, proof, behind_seconds, damaged, journal, rebuilding, folding))


def _journal_trouble(journal: Journal) -> JournalTrouble | None:
    if not journal.held_by:
        return None
    pids = [holder.pid for holder in journal.held_by]
    return JournalTrouble(journal.size_bytes, pids, journal.sentence, journal.remedy)


def _last_proof(verified: Verified | None) -> LastProof | None:
    """Without what was found: anyone may ask."""
    if verified is None:
        return None
    remedy = "" if verified.ok else "`runfold doctor` on the server's machine says what was found"
    return LastProof(verified.finished_at, verified.head, verified.ok, verified.faults_found, remedy)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/livez",
        operation="livez",
        handler=get_livez,
        summary="The process is alive",
        needs="open",
        answer=Health,
    ),
    Route(
        method="GET",
        path="/readyz",
        operation="readyz",
        handler=get_readyz,
        summary="The log can be read; views that stay behind are listed with their remedy",
        needs="open",
        answer=Readiness,
    ),
)
