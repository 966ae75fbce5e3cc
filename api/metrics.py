"""What Prometheus reads: the same figures that admins see, in its text format (version 0.0.4)."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from typing import Literal

from aiohttp import web

from api.routes import Route
from api.server_figures import ServerFigures, server_figures
from api.service import SERVICE
from eventstore.proof.verified import Verified, read_verified
from projections.engine.checkpoints import Checkpoint, read_checkpoints
from projections.stats import OUTCOMES, Queue, all_time, queue
from projections.usage import CostFilter, CostList, costs
from runfold.envelope import time_us

Sample = tuple[dict[str, str], float]


async def get_metrics(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    sums, _ = await service.views.query(all_time)
    waiting, _ = await service.views.query(queue, tenant=None)
    spent, _ = await service.views.query(costs, CostFilter(tenant=None, by="model"))
    checkpoints, _ = await service.views.query(read_checkpoints)
    figures = await server_figures(service)
    verified = await asyncio.to_thread(read_verified, service.data)
    lines = [
        *_of_runs(sums, waiting),
        *_of_costs(spent),
        *_of_server(figures, checkpoints),
        *_of_proof(verified),
    ]
    return web.Response(text="\n".join(lines) + "\n", content_type="text/plain", charset="utf-8")


def _of_runs(sums: dict[str, int], waiting: Queue) -> Iterator[str]:
    yield from _metric("runs_created_total", "counter", "Runs that were opened.", [({}, sums.get("created", 0))])
    yield from _metric(
        "runs_rested", "gauge", "Runs by how they came to rest; a resumed run leaves its old place.",
        [({"status": name}, sums.get(name, 0)) for name in OUTCOMES],
    )  # fmt: skip
    yield from _metric(
        "run_seconds_sum",
        "gauge",
        "Seconds that rested runs took together.",
        [({}, sums.get("duration_ms", 0) / 1_000)],
    )
    yield from _metric(
        "runs_active", "gauge", "Runs that do not rest, by status.",
        [({"status": name}, count) for name, count in waiting.active.items()],
    )  # fmt: skip
    yield from _metric("queue_depth", "gauge", "Runs that wait for a worker.", [({}, waiting.depth)])
    yield from _metric(
        "queue_oldest_seconds", "gauge", "How long the first of them has waited.", [({}, _age(waiting.oldest_at))]
    )


def _of_costs(spent: CostList) -> Iterator[str]:
    yield from _metric(
        "cost_usd_total", "counter", "Dollars spent, by model, where the price is known.",
        [({"model": item.key or ""}, item.cost_usd or 0.0) for item in spent.items],
    )  # fmt: skip
    yield from _metric(
        "tokens_total", "counter", "Tokens in and out, by model.",
        [
            ({"model": item.key or "", "direction": direction}, number)
            for item in spent.items
            for direction, number in (("input", item.input_tokens), ("output", item.output_tokens))
        ],
    )  # fmt: skip


def _of_server(figures: ServerFigures, checkpoints: dict[str, Checkpoint]) -> Iterator[str]:
    log = figures.log
    yield from _metric("log_position", "counter", "The position of the last event.", [({}, log.position)])
    yield from _metric("log_bytes", "gauge", "What the log's file weighs.", [({}, log.size_bytes or 0)])
    yield from _metric("views_bytes", "gauge", "What the views' files weigh.", [({}, log.views_bytes or 0)])
    yield from _metric(
        "view_position", "gauge", "How far a view has read the log.",
        [({"view": name}, place.position) for name, place in sorted(checkpoints.items())],
    )  # fmt: skip
    yield from _metric(
        "views_parked",
        "gauge",
        "Views that stand before an event they cannot take.",
        [({}, len(log.views_parked))],
    )
    yield from _metric("stream_clients", "gauge", "Open event streams.", [({}, figures.stream_clients)])
    yield from _metric("leases", "gauge", "Runs that a worker holds.", [({}, figures.leases_total)])
    at_work = sum(worker.runs > 0 for worker in figures.workers)
    yield from _metric("workers", "gauge", "Workers that hold at least one run.", [({}, at_work)])
    idle = len(figures.workers) - at_work
    yield from _metric("workers_idle", "gauge", "Workers that wait for a run.", [({}, idle)])


def _of_proof(verified: Verified | None) -> Iterator[str]:
    if verified is None:
        return
    yield from _metric("verified_ok", "gauge", "Whether the last whole proof found no fault.", [({}, int(verified.ok))])
    yield from _metric("verified_age_seconds", "gauge", "How long ago that was.", [({}, _age(verified.finished_at))])


def _metric(name: str, kind: Literal["counter", "gauge"], text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP runfold_{name} {text}"
    yield f"# TYPE runfold_{name} {kind}"
    for labels, value in samples:
        told = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        yield f"runfold_{name}{{{told}}} {value:.15g}" if told else f"runfold_{name} {value:.15g}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _age(text: str | None) -> float:
    return 0.0 if not text else max(0.0, time.time() - time_us(text) / 1_000_000)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/metrics",
        operation="get_metrics",
        handler=get_metrics,
        summary="Counters for Prometheus",
        needs="root",
        media_type="text/plain",
    ),
)
