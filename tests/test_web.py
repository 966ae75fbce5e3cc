"""The dashboard's source is in step with the server, and its lock can be installed from anywhere."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from api.app import ROUTES
from api.dashboard import BUNDLE
from api.openapi import openapi

WEB = Path(__file__).parent.parent / "web"
FIRST_PAGE_BYTES_MAX = 120_000


def test_the_client_is_made_from_what_the_server_describes_now() -> None:
    committed = json.loads((WEB / "openapi.json").read_text())

    assert committed == json.loads(json.dumps(openapi(ROUTES))), "`make client` brings it up to date"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="no Node is installed")
@pytest.mark.skipif(not (WEB / "node_modules").is_dir(), reason="the dashboard's packages are not installed")
def test_the_typed_client_is_the_one_generated_from_the_description(tmp_path: Path) -> None:
    made = tmp_path / "schema.ts"
    tool = WEB / "node_modules" / "openapi-typescript" / "bin" / "cli.js"

    subprocess.run(
        ["node", tool, WEB / "openapi.json", "--output", made, "--alphabetize", "--default-non-nullable=false"],
        check=True,
        capture_output=True,
    )

    assert made.read_text() == (WEB / "src" / "api" / "schema.ts").read_text(), "`make client` brings it up to date"


@pytest.mark.slow
@pytest.mark.skipif(not (WEB / "node_modules").is_dir(), reason="the dashboard's packages are not installed")
@pytest.mark.parametrize("tool", ["vue-tsc/bin/vue-tsc.js --noEmit", "vitest/vitest.mjs run"])
def test_the_dashboards_own_checks_pass(tool: str) -> None:
    script, *arguments = tool.split()
    done = subprocess.run(
        ["node", WEB / "node_modules" / script, *arguments], cwd=WEB, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_names_no_address_to_download_from() -> None:
    assert '"resolved"' not in (WEB / "package-lock.json").read_text()


@pytest.mark.skipif(not (BUNDLE / "index.html").is_file(), reason="no dashboard is built")
def test_the_first_page_is_small_and_asks_nobody_else() -> None:
    page = (BUNDLE / "index.html").read_text()
    assets = [name for name in (BUNDLE / "assets").iterdir() if name.suffix in {".js", ".css"} and name.name in page]

    assert assets
    assert sum(len(gzip.compress(path.read_bytes())) for path in assets) <= FIRST_PAGE_BYTES_MAX
    assert "http" not in page
    assert not list(BUNDLE.rglob("*.map"))
