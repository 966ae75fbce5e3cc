"""Every real recording at hand becomes the run that its README describes, or is refused with the reason."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.errors import RunfoldError
from runner.imports.importing import import_file, read_file
from tests.import_samples import Sample

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs the recordings in ../shared/data")


def expect(source_format: str, **more: Any) -> Sample:
    return Sample(content="", format=source_format, **more)


RECORDINGS = {
    "captured/claude/auth_error.jsonl": expect("claude-stream", status="failed", reason="TURN_FAILED", turns=1),
    "captured/claude/auth_error.session.jsonl": expect(
        "claude-session", status="failed", reason="TURN_FAILED", turns=1
    ),
    "captured/claude/hello.jsonl": expect("claude-stream", turns=1, tokens=(1200, 1000, 12, 0), cost_micros=1080),
    "captured/claude/hello.session.jsonl": expect("claude-session", turns=1, tokens=(1200, 1000, 12, 0)),
    "captured/claude/server_error.jsonl": expect("claude-stream", status="failed", reason="TURN_FAILED", turns=1),
    "captured/claude/server_error.session.jsonl": expect(
        "claude-session", status="failed", reason="TURN_FAILED", turns=1
    ),
    "captured/claude/sigterm_longcmd.jsonl": expect(
        "claude-stream", turns=1, calls=1, commands=1, tokens=(900, 0, 18, 0), cost_micros=2970
    ),
    "captured/claude/sigterm_longcmd.session.jsonl": expect(
        "claude-session", turns=1, calls=1, commands=1, tokens=(900, 0, 18, 0)
    ),
    "captured/claude/work.jsonl": expect(
        "claude-stream", turns=1, calls=4, commands=2, files=1, tokens=(12400, 11000, 175, 0), cost_micros=10125
    ),
    "captured/claude/work.session.jsonl": expect(
        "claude-session", turns=1, calls=4, commands=2, files=1, tokens=(12400, 11000, 175, 0)
    ),
    "captured/codex/auth_error.jsonl": expect("codex-exec", status="failed", reason="TURN_FAILED", turns=1),
    "captured/codex/auth_error.session.jsonl": expect("codex-rollout", status="failed", reason="TURN_FAILED", turns=1),
    "captured/codex/context_overflow.jsonl": expect("codex-exec", status="failed", reason="TURN_FAILED", turns=1),
    "captured/codex/context_overflow.session.jsonl": expect(
        "codex-rollout", status="failed", reason="TURN_FAILED", turns=1
    ),
    "captured/codex/hello.jsonl": expect("codex-exec", turns=1, tokens=(1200, 1000, 12, 0)),
    "captured/codex/hello.session.jsonl": expect("codex-rollout", turns=1, tokens=(1200, 1000, 12, 0)),
    "captured/codex/server_error.jsonl": expect("codex-exec", status="failed", reason="TURN_FAILED", turns=1),
    "captured/codex/server_error.session.jsonl": expect(
        "codex-rollout", status="failed", reason="TURN_FAILED", turns=1
    ),
    "captured/codex/sigterm_hang.jsonl": expect("codex-exec", status="failed", reason="NO_TERMINAL_EVENT", turns=1),
    "captured/codex/sigterm_hang.session.jsonl": expect(
        "codex-rollout", status="failed", reason="NO_TERMINAL_EVENT", turns=1
    ),
    "captured/codex/sigterm_longcmd.jsonl": expect(
        "codex-exec", status="failed", reason="NO_TERMINAL_EVENT", turns=1, calls=1
    ),
    "captured/codex/sigterm_longcmd.session.jsonl": expect(
        "codex-rollout", status="failed", reason="NO_TERMINAL_EVENT", turns=1, calls=1
    ),
    "captured/codex/slow.jsonl": expect("codex-exec", turns=1, tokens=(800, 0, 8, 0)),
    "captured/codex/slow.session.jsonl": expect("codex-rollout", turns=1, tokens=(800, 0, 8, 0)),
    "captured/codex/work.jsonl": expect(
        "codex-exec", turns=1, calls=4, commands=3, files=1, tokens=(12400, 11000, 175, 16)
    ),
    "captured/codex/work.session.jsonl": expect(
        "codex-rollout", turns=1, calls=4, commands=3, files=1, tokens=(12400, 11000, 175, 16)
    ),
    "captured/gemini/hello.jsonl": expect("gemini-stream", turns=1, tokens=(1200, 1000, 12, 0)),
    "captured/gemini/hello.session.jsonl": expect("gemini-session", turns=1, tokens=(1200, 1000, 12, 0)),
    "captured/gemini/work.jsonl": expect(
        "gemini-stream", turns=1, calls=4, commands=2, files=1, tokens=(12400, 11000, 191, 16)
    ),
    "captured/gemini/work.session.jsonl": expect(
        "gemini-session", turns=1, calls=4, commands=2, files=1, tokens=(12400, 11000, 191, 16)
    ),
    "captured/opencode/hello.jsonl": expect("opencode-run", turns=1, tokens=(1200, 1000, 12, 0), cost_micros=324),
    "captured/opencode/work.jsonl": expect(
        "opencode-run", turns=1, calls=4, commands=2, files=1, tokens=(12400, 11000, 175, 16), cost_micros=2850
    ),
    "claude-code-session/1af7fc5e-8455-4414-9ccd-011d40f70b2a.jsonl": expect(
        "claude-session", turns=1, calls=12, commands=2, tokens=(116010, 103219, 953, 0)
    ),
    "claude-code-session/5c0375b4-57a5-4f26-b12d-d022ee4e51b7.jsonl": expect(
        "claude-session", turns=1, calls=21, commands=5, files=1, steps=(2, 0, 0), tokens=(372135, 324259, 3629, 0)
    ),
    "claude-code-session/agent_sessions_small.jsonl": expect(
        "claude-session",
        status="failed",
        reason="NO_TERMINAL_EVENT",
        turns=5,
        calls=3,
        commands=2,
        steps=(1, 0, 0),
        tokens=(10, 0, 5, 0),
    ),
    "claude-code-session/representative_messages.jsonl": expect(
        "claude-session",
        status="failed",
        reason="NO_TERMINAL_EVENT",
        turns=4,
        calls=2,
        commands=1,
        files=1,
        tokens=(218, 0, 445, 0),
    ),
    "claude-code-session/transcripts_sample_session.jsonl": expect(
        "claude-session", turns=2, calls=2, commands=1, files=1
    ),
    "codex-exec-golden/thread_basic.jsonl": expect("codex-exec", turns=1, tokens=(12, 0, 9, 0)),
    "codex-exec-golden/thread_error_retry_then_completed.jsonl": expect("codex-exec", turns=1, tokens=(8, 0, 5, 0)),
    "codex-exec-golden/thread_failed_turn_completed.jsonl": expect(
        "codex-exec", status="failed", reason="TURN_FAILED", turns=1
    ),
    "codex-exec-golden/thread_mcp_rich.jsonl": expect("codex-exec", turns=1, calls=2, tokens=(8, 0, 4, 0)),
    "codex-exec-golden/thread_new_command.jsonl": expect("codex-exec", turns=1, tokens=(1, 0, 5, 0)),
    "codex-rollout/agent_sessions_small.jsonl": expect(
        "codex-rollout",
        status="failed",
        reason="NO_TERMINAL_EVENT",
        turns=4,
        calls=14,
        commands=7,
        files=1,
        tokens=(16341, 3584, 81, 63),
    ),
    "codex-rollout/codex_050_legacy.jsonl": expect("codex-rollout", turns=2, tokens=(1420, 0, 910, 0)),
    "codex-rollout/codex_051_usage.jsonl": expect("codex-rollout", turns=2, tokens=(2840, 1420, 1520, 0)),
    "dbt-run-results/run_results_1.12.json": expect("dbt-run-results", reason="ALL_STEPS_COMPLETED", steps=(46, 0, 0)),
    "dbt-run-results/run_results_v1.json": expect("dbt-run-results", reason="ALL_STEPS_COMPLETED", steps=(8, 0, 0)),
    "dbt-run-results/run_results_v4.json": expect(
        "dbt-run-results", status="failed", reason="STEP_FAILED", steps=(28, 1, 0)
    ),
    "dbt-run-results/run_results_v6.json": expect("dbt-run-results", reason="ALL_STEPS_COMPLETED", steps=(61, 0, 0)),
    "github-actions/workflow_job.completed.success.with-organization.payload.json": expect(
        "github-actions", steps=(8, 0, 0)
    ),
    "github-actions/workflow_job.in_progress.payload.json": expect(
        "github-actions", status="failed", reason="NO_TERMINAL_EVENT", steps=(0, 0, 1)
    ),
    "github-actions/workflow_job.in_progress.with-queued-steps.payload.json": expect(
        "github-actions", status="failed", reason="NO_TERMINAL_EVENT", steps=(2, 0, 1)
    ),
    "github-actions/workflow_run.completed.with-pull-requests.payload.json": expect("github-actions"),
    "github-actions/workflow_run.requested.payload.json": expect(
        "github-actions", status="failed", reason="NO_TERMINAL_EVENT"
    ),
    "mini-swe-agent/local.traj.json": expect("swe-agent", turns=1, calls=2, commands=2),
    "openhands/basic.json": expect("openhands", turns=1, calls=1, files=1, tokens=(8132, 3482, 1312, 0)),
    "openhands/basic_interactions.json": expect("openhands", turns=3, tokens=(2473, 2304, 10, 0)),
    "openhands/resolver_output.jsonl": expect(
        "openhands-output", runs=2, turns=1, calls=3, commands=2, cost_micros=70713
    ),
    "openlineage/metadata.template.json": expect("openlineage", runs=13),
    "other-agents/copilot_small.jsonl": expect(
        "copilot-session",
        status="failed",
        reason="NO_TERMINAL_EVENT",
        turns=2,
        calls=4,
        commands=1,
        steps=(1, 0, 0),
        tokens=(105, 5, 15, 0),
    ),
    "other-agents/droid_stream_json.jsonl": expect("droid-stream", turns=1, calls=1, commands=1),
    "other-agents/gemini_large.json": expect("gemini-session", turns=2, calls=2, commands=2, tokens=(100, 0, 10, 0)),
    "other-agents/kimi_small.jsonl": expect("kimi-session", turns=2),
    "other-agents/qwen_session.jsonl": expect("qwen-session", turns=1, calls=1),
    "swe-agent/function_calling_simple.traj": expect("swe-agent", turns=1, calls=5, commands=5),
    "swe-agent/marshmallow-1867.function_calling.traj": expect("swe-agent", turns=1, calls=11, commands=11),
    "swe-agent/marshmallow-1867.window100.traj": expect("swe-agent", turns=1, calls=11, commands=11),
    "swe-agent/pydicom__pydicom-1458.traj": expect(
        "swe-agent", turns=1, calls=12, commands=12, tokens=(122612, 0, 1369, 0), cost_micros=1267190
    ),
    "temporal-history/cancel_fake_progress_history.json": expect("temporal-history", steps=(0, 0, 1)),
    "temporal-history/complete_update_after_workflow_returns_pre1488.json": expect("temporal-history"),
    "temporal-history/events.canceled.json": expect(
        "temporal-history", status="cancelled", reason="CANCELLED_BY_USER", steps=(0, 0, 1)
    ),
    "temporal-history/events.completed.json": expect("temporal-history", steps=(2, 0, 0)),
    "temporal-history/events.continued-as-new.json": expect("temporal-history"),
    "temporal-history/events.timed-out.json": expect(
        "temporal-history", status="failed", reason="TIMED_OUT", steps=(1, 1, 0)
    ),
}
REFUSED = {
    "captured/codex/auth_error.stderr.txt": "is not JSON",
    "captured/codex/context_overflow.stderr.txt": "is not JSON",
    "captured/codex/hello.stderr.txt": "is not JSON",
    "captured/codex/server_error.stderr.txt": "is not JSON",
    "captured/codex/sigterm_hang.stderr.txt": "is not JSON",
    "captured/codex/sigterm_longcmd.stderr.txt": "is not JSON",
    "captured/codex/slow.stderr.txt": "is not JSON",
    "captured/codex/work.stderr.txt": "is not JSON",
    "captured/gemini/hello.stderr.txt": "is not JSON",
    "captured/gemini/work.stderr.txt": "is not JSON",
    "framework-traces/claude-agent-2025-12-22.trace.json": "no session that runfold knows",
    "framework-traces/langgraph-js-2025-10-30.trace.json": "no session that runfold knows",
    "framework-traces/langgraph-python-2025-08-22.trace.json": "no session that runfold knows",
    "framework-traces/pydantic-ai-tools-2025-12-04.trace.json": "no session that runfold knows",
    "framework-traces/vercel-aisdk-2025-11-17.trace.json": "no session that runfold knows",
}


def test_the_table_names_every_recording() -> None:
    there = {str(path.relative_to(DATA)) for path in DATA.rglob("*") if path.is_file()} - {"README.md"}

    assert there == set(RECORDINGS) | set(REFUSED)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    opened = await SqliteLog.open(tmp_path)
    yield opened
    await opened.close()


@pytest.mark.parametrize("name", sorted(RECORDINGS))
async def test_a_real_recording_becomes_the_run_that_it_records(name: str, log: SqliteLog) -> None:
    expected = RECORDINGS[name]
    ledger = Ledger(log)

    found = await import_file(ledger, read_file(DATA / name), tenant="default", actor="user:a")

    run = await ledger.state(found[0].run_id)
    kinds = Counter([event.type async for page in log.read(stream=found[0].run_id) for event in page.events])
    tokens = run.tokens
    assert expected == Sample(
        content="",
        format=found[0].format,
        status=found[0].status,
        reason=found[0].reason_code,
        runs=len(found),
        turns=run.turns,
        calls=kinds["tool_called"],
        commands=kinds["command_executed"],
        files=run.files,
        steps=(kinds["step_completed"], kinds["step_failed"], kinds["step_cancelled"]),
        tokens=(tokens.input_tokens, tokens.cache_read_tokens, tokens.output_tokens, tokens.reasoning_tokens),
        cost_micros=run.cost_micros,
    )


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_file_that_is_no_recording_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(RunfoldError, match=REFUSED[name]):
        read_file(DATA / name)
