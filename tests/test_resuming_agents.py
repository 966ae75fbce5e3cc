"""A command whose turn was cut short goes on, in its next turn, with the session that its agent has named."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.working import working

pytestmark = pytest.mark.slow
SESSION = "5ab1c3d0-0000-4000-8000-000000000001"
AGENTS: list[tuple[str, list[str], dict[str, Any], str]] = [
    ("codex", ["exec", "--json", "-"], {"type": "thread.started", "thread_id": SESSION},
        f"exec --json resume {SESSION} -"),
    ("claude", ["-p", "--output-format", "stream-json"],
        {"type": "system", "subtype": "init", "session_id": SESSION, "model": "claude-sonnet-4-5"},
        f"--resume {SESSION} -p --output-format stream-json"),
    ("gemini", ["--output-format", "stream-json"], {"type": "init", "session_id": SESSION, "model": "gemini-2.5-pro"},
        f"--resume {SESSION} --output-format stream-json"),
    ("opencode", ["run", "--format", "json"],
        {"type": "step_start", "sessionID": SESSION, "part": {"type": "step-start", "sessionID": SESSION}},
        f"run --session {SESSION} --format json"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words", "says", "resumed"), AGENTS, ids=[row[0] for row in AGENTS])
async def test_an_agent_whose_turn_was_cut_short_is_started_again_on_its_own_session(
    tmp_path: Path, name: str, words: list[str], says: dict[str, Any], resumed: str
) -> None:
    agent = tmp_path / name
    agent.write_text(
        f"#!/bin/sh\necho \"$*\" >> {tmp_path}/argv\necho '{json.dumps(says)}'\n"
        f"test $(wc -l < {tmp_path}/argv) -ge 2 || exec sleep 1000\n"
    )
    agent.chmod(0o755)
    toml = (
        f"[workflow.w]\ncommand = {json.dumps([str(agent), *words])}\nformat = '{name}'\nprompt = 'go'\n"
        "grace_seconds = 0.3\non_lost = 'resume'\n"
    )

    async with working(tmp_path, toml) as first:
        run_id = await first.queue("w")
        await first.wait_type(run_id, "subprocess_output")
        first.stop.set()
    async with working(tmp_path, toml) as second:
        run = await second.wait_rest(run_id)

    assert (tmp_path / "argv").read_text().splitlines() == [" ".join(words), resumed]
    assert (run.agent_session_id, run.turns) == (SESSION, 2)
