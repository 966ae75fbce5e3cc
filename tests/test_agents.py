"""A real agent CLI, driven by `runfold run` against a scripted model server, leaves a complete run.

Needs the agent (`npm install --global @openai/codex`, or `RUNFOLD_TEST_CODEX=/path/to/codex`) and the model server;
skipped, with the reason, where one is absent.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODEL_SERVER = ROOT.parent / "shared" / "tools" / "fake_model_server.py"
CODEX = os.environ.get("RUNFOLD_TEST_CODEX") or shutil.which("codex")

pytestmark = [
    pytest.mark.agents,
    pytest.mark.slow,
    pytest.mark.skipif(CODEX is None, reason="the codex CLI is not installed"),
    pytest.mark.skipif(not MODEL_SERVER.exists(), reason="the scripted model server is not beside the checkout"),
]


@pytest.fixture
def model_port() -> Iterator[int]:
    server = subprocess.Popen([sys.executable, str(MODEL_SERVER), "--port", "0"], stdout=subprocess.PIPE)
    with server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["port"]
        server.terminate()


def test_a_real_codex_run_ends_completed_with_all_it_printed(tmp_path: Path, model_port: int) -> None:
    for folder in ("home", "workspace"):
        (tmp_path / folder).mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "FAKE_KEY": "not-a-key",
        "PYTHONPATH": str(ROOT),
        "RUNFOLD_DATA": str(tmp_path / "data"),
    }
    provider = (
        f'{{name="fake",base_url="http://127.0.0.1:{model_port}/v1",wire_api="responses",env_key="FAKE_KEY",'
        "request_max_retries=1,stream_max_retries=1}"
    )
    codex = [
        *(str(CODEX), "exec", "--json", "--skip-git-repo-check", "-s", "danger-full-access", "-m", "fake-model"),
        *("-c", "analytics.enabled=false", "-c", "check_for_update_on_startup=false"),
        *("-c", "model_provider=fake", "-c", f"model_providers.fake={provider}", "[[scenario:work]] go"),
    ]

    def runfold(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "runfold", *arguments],
            cwd=tmp_path / "workspace",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )

    ran = runfold("run", "--", *codex)

    assert ran.returncode == 0, ran.stderr
    assert [json.loads(line)["type"] for line in ran.stdout.splitlines()][-1] == "turn.completed"
    snapshot = json.loads(runfold("status", "@last", "--json").stdout)
    assert (snapshot["status"], snapshot["reason_code"]) == ("completed", "EXIT_ZERO")
    assert runfold("logs", "@last").stdout.count(b'"type":"item.completed"') == ran.stdout.count(
        b'"type":"item.completed"'
    )
    assert (tmp_path / "workspace" / "notes.md").exists()
