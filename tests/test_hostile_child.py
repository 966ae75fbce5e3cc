"""A driven program that lies about its run changes nothing but what it may say, and harms nobody who reads."""

from pathlib import Path

import pytest

from projections.engine.views import Views
from projections.usage import CostFilter, costs
from runfold.amounts import AMOUNT_MAX, TOTAL_MAX
from runfold.events import TelemetryRejected
from tests.working import working

pytestmark = pytest.mark.slow
SAY = """import json, sys
def say(**event): print(json.dumps({"runfold": event}), flush=True)
other = sys.argv[1]
"""
FORGERIES = '''
types = """run_queued run_claimed run_started pause_requested run_paused run_resumed run_completed cancel_requested
run_cancelled run_stopped run_failed claim_lost turn_started turn_completed turn_failed subprocess_output
approval_requested approval_granted limit_exceeded event_redacted run_archived token_created note_added label_changed"""
for name in types.split():
    say(type=name, run_id=other, reason_code="EXIT_ZERO", turn=1, approval_id="a", limit="cost", reason="forged",
        text="forged", key="a", value="b", claim=99, worker="forged", driver="here", digest="x")
'''
NUMBERS = f"""
for wrong in (-1, {AMOUNT_MAX + 1}, 2**53, 2**63, 10**30, 1.5, "7", True, None):
    say(type="token_usage", input_tokens=wrong)
    say(type="file_written", path="a", bytes=wrong if wrong is not None else -1)
    say(type="test_run_completed", passed=wrong)
say(type="command_executed", command="x", exit_code=-10**20)
"""
FLOOD = f"""
for _ in range({TOTAL_MAX // AMOUNT_MAX + 50}):
    say(type="token_usage", input_tokens={AMOUNT_MAX}, output_tokens={AMOUNT_MAX}, cost_micros={AMOUNT_MAX}, model="m")
"""


def toml(folder: Path, script: str, other: str = "") -> str:
    (folder / "says.py").write_text(SAY + script)
    return f"[workflow.w]\nwatch_files = false\ncommand = ['python3', '{folder}/says.py', '{other}']\n"


async def test_a_child_cannot_say_how_its_run_or_anothers_goes(tmp_path: Path) -> None:
    waiting = "[workflow.waiting]\ncommand = ['sleep', '1000']\n"
    async with working(tmp_path, waiting, workers=0) as nobody:
        other = await nobody.queue("waiting")
    async with working(tmp_path, toml(tmp_path, FORGERIES, other), slots=1, workers=0) as nobody:
        run_id = await nobody.queue("w")
    async with working(tmp_path, toml(tmp_path, FORGERIES, other) + waiting, slots=2) as worker:
        run = await worker.wait_rest(run_id)
        events = [recorded.event() for recorded in await worker.events(run_id)]
        types = await worker.types(run_id)
        of_other = await worker.types(other)

    assert (run.status, run.reason_code, run.turns) == ("completed", "EXIT_ZERO", 1)
    assert sorted(types) == sorted(
        [
            *("run_queued", "run_claimed", "run_started", "turn_started", "turn_completed", "run_completed"),
            *("telemetry_rejected" for event in events if isinstance(event, TelemetryRejected)),
        ]
    )
    assert sum(event.count for event in events if isinstance(event, TelemetryRejected)) == 24
    assert set(of_other) <= {"run_queued", "run_claimed", "run_started", "turn_started"}


async def test_numbers_that_nobody_can_mean_are_refused(tmp_path: Path) -> None:
    async with working(tmp_path, toml(tmp_path, NUMBERS)) as worker:
        run_id = await worker.queue("w")
        run = await worker.wait_rest(run_id)
        rejected = [it for r in await worker.events(run_id) if isinstance(it := r.event(), TelemetryRejected)]

    assert (run.status, run.tokens.input_tokens, run.files, run.tests.runs) == ("completed", 0, 0, 0)
    assert sum(event.count for event in rejected) == 9 * 3 + 1


async def test_numbers_that_add_up_beyond_all_measure_break_no_view(tmp_path: Path) -> None:
    async with working(tmp_path, toml(tmp_path, FLOOD)) as worker:
        run_id = await worker.queue("w")
        run = await worker.wait_rest(run_id)
        rejected = [it for r in await worker.events(run_id) if isinstance(it := r.event(), TelemetryRejected)]
    views = Views.open(tmp_path / "data")
    freshness = views.refresh()
    spent = costs(views.connection, CostFilter(tenant=None)).sum
    views.close()

    assert (run.status, run.tokens.input_tokens) == ("completed", TOTAL_MAX)
    assert sum(event.count for event in rejected) == 50
    assert (freshness.stale, freshness.parked, spent.input_tokens) == (False, (), TOTAL_MAX)
