"""The real agents, driven by `runfold run` against a scripted model: each works, is cancelled, and goes on.

`make agents` installs them from npm beside the checkout and runs this file. Otherwise an agent is taken from the folder
that `RUNFOLD_TEST_AGENTS` names, or from PATH; where it is in neither, its tests are skipped.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MODEL = Path(__file__).parent / "programs" / "model.py"
FOLDER = os.environ.get("RUNFOLD_TEST_AGENTS", str(ROOT / ".agents" / "node_modules" / ".bin"))
PATIENCE_SECONDS = 120.0
TOKENS = {
    "codex": (12400, 11000, 175, 16),
    "claude": (12400, 11000, 175, 0),  # It does not say what of its output was reasoning.
    "gemini": (12400, 11000, 191, 16),  # Its thoughts are beside what it says.
    "opencode": (12400, 11000, 175, 16),
}
COSTS_USD = {"claude": 0.010125, "opencode": 0.00285}  # What they say themselves.
SESSIONS = {  # Where an agent keeps its own record; opencode has a database of its own.
    "codex": ".codex/sessions/**/*.jsonl",
    "claude": ".claude/projects/**/*.jsonl",
    "gemini": ".gemini/tmp/**/chats/*.json*",
}

pytestmark = [pytest.mark.agents, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def model_port() -> Iterator[int]:
    server = subprocess.Popen([sys.executable, str(MODEL)], stdout=subprocess.PIPE)
    with server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["port"]
        server.terminate()


class Agent:
    """One agent in a home of its own, which knows only the scripted model."""

    def __init__(self, name: str, program: str, folder: Path, port: int) -> None:
        self.name, self.home, self.workspace, self._port = name, folder / "home", folder / "workspace", port
        self.workspace.mkdir()
        address = f"http://127.0.0.1:{port}"
        self._environment = {
            "PATH": f"{Path(program).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "RUNFOLD_DATA": str(folder / "data"),
            "SOME_KEY": "not-a-key",
            "ANTHROPIC_BASE_URL": address,
            "ANTHROPIC_API_KEY": "not-a-key",
            "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "GOOGLE_GEMINI_BASE_URL": address,
            "GEMINI_API_KEY": "not-a-key",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
        }
        (self.home / ".gemini").mkdir(parents=True)
        settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
        (self.home / ".gemini" / "settings.json").write_text(json.dumps(settings))
        if name == "opencode":
            price = {"input": 1, "output": 2, "cache_read": 0.1}
            options = {"baseURL": f"{address}/v1", "apiKey": "not-a-key"}
            provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"m": {"cost": price}}}
            (self.workspace / "opencode.json").write_text(json.dumps({"provider": {"scripted": provider}}))

    def command(self, prompt: str) -> list[str]:
        provider = f'{{name="s",base_url="http://127.0.0.1:{self._port}/v1",wire_api="responses",env_key="SOME_KEY"}}'
        return {
            "codex": [
                *("codex", "exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
                *("-m", "scripted", "-c", "analytics.enabled=false", "-c", "check_for_update_on_startup=false"),
                *("-c", "model_provider=s", "-c", f"model_providers.s={provider}", prompt),
            ],
            "claude": [
                *("claude", "-p", "--output-format", "stream-json", "--verbose", "--model", "claude-sonnet-4-5"),
                *("--permission-mode", "acceptEdits", "--allowedTools", "Bash,Write,Read", "--", prompt),
            ],
            "gemini": [
                *("gemini", "--skip-trust", "--yolo", "-m", "gemini-2.5-flash", "--output-format", "stream-json"),
                *("-p", prompt),
            ],
            "opencode": ["opencode", "run", "--format", "json", "-m", "scripted/m", prompt],
        }[self.name]

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "runfold", *words],
            cwd=self.workspace,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def runfold(self, *words: str) -> tuple[int, bytes]:
        with self.start(*words) as process:
            output, _ = process.communicate(timeout=PATIENCE_SECONDS)
            return process.returncode, output

    def status(self) -> Any:
        return json.loads(self.runfold("status", "@last", "--json")[1])

    def events(self, type_name: str) -> list[Any]:
        found = json.loads(self.runfold("events", "@last", "--json")[1])
        return [event for event in found["items"] if event["type"] == type_name]

    def wait_busy(self, process: "subprocess.Popen[bytes]") -> None:
        """Until the agent's own command is at work, which would never end by itself."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (self.workspace / "waits").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)

    def left(self, run_id: str) -> list[str]:
        """What is still alive of a run's processes."""
        found: list[str] = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"RUNFOLD_RUN_ID={run_id}".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text())
            except OSError:
                continue
        return found


@pytest.fixture(params=sorted(TOKENS))
def agent(request: pytest.FixtureRequest, tmp_path: Path, model_port: int) -> Agent:
    name: str = request.param
    program = shutil.which(name, path=f"{FOLDER}:{os.environ['PATH']}")
    if program is None:
        pytest.skip(f"the {name} CLI is not installed; `make agents` installs it")
    return Agent(name, program, tmp_path, model_port)


def test_a_real_agent_works_to_the_end_and_all_of_it_is_recorded(agent: Agent) -> None:
    code, output = agent.runfold("run", "--", *agent.command("[[work]] go"))

    run = agent.status()
    assert (code, run["status"], run["reason_code"]) == (0, "completed", "EXIT_ZERO"), output
    assert (agent.workspace / "notes.md").read_text() == "# Notes\n\nwritten by a script\n"
    tokens = run["stats"]["tokens"]
    names = ("input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens")
    assert tuple(tokens[name] or 0 for name in names) == TOKENS[agent.name]
    assert agent.name not in COSTS_USD or run["stats"]["cost_usd"] == COSTS_USD[agent.name]
    assert [Path(event["data"]["path"]).name for event in agent.events("file_written")] == ["notes.md"]
    codes = [event["data"].get("exit_code") for event in agent.events("command_executed")]
    assert codes[-1] == (None if agent.name == "gemini" else 1)
    assert [event["data"]["name"] for event in agent.events("artifact_stored")] == ["response.md"]
    tests = [event["data"] for event in agent.events("test_run_completed")]
    assert [(it["passed"], it["failed"]) for it in tests] == [(3, 1)]
    assert agent.left(run["id"]) == []
    files = [*agent.home.glob(SESSIONS[agent.name])] if agent.name in SESSIONS else []
    for file in files:
        (known,) = json.loads(agent.runfold("import", "--json", str(file))[1])["imported"]
        assert (known["run_id"], known["driven"], known["events_new"]) == (run["id"], True, 0)
    assert len(files) == (agent.name in SESSIONS)


def test_a_real_agent_is_cancelled_with_all_that_it_started(agent: Agent) -> None:
    with agent.start("run", "--", *agent.command("[[wait]] go")) as process:
        agent.wait_busy(process)

        code, output = agent.runfold("cancel", "@last")
        process.communicate(timeout=PATIENCE_SECONDS)

    run = agent.status()
    assert (code, process.returncode, run["status"]) == (0, 143, "cancelled"), output
    assert agent.left(run["id"]) == []


def test_a_real_agent_that_was_interrupted_goes_on_with_its_own_session(agent: Agent) -> None:
    with agent.start("run", "--", *agent.command("[[wait]] go")) as process:
        agent.wait_busy(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_SECONDS)
    stopped = agent.status()
    left = agent.left(stopped["id"])

    code, output = agent.runfold("resume", "@last")

    run = agent.status()
    assert (stopped["status"], stopped["reason_code"], left) == ("stopped", "USER_INTERRUPT", [])
    assert (code, run["status"], run["stats"]["turns"]) == (0, "completed", 2), output
    assert b"I have seen 2 prompts." in output
    assert len({event["data"]["session"] for event in agent.events("token_usage")}) == 1
