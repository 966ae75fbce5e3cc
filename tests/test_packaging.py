"""What is installed: the tool with everything, or the client alone, whatever a project calls its own packages."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from api.dashboard import BUNDLE
from tests.ledgers import stored
from tests.terminal import ROOT, environment, first_line, read, started

pytestmark = pytest.mark.slow
TOOL = {"runfold", "eventstore", "projections", "runner", "api", "cli"}
PROGRAM = """
import api, cli, runner
assert (api.WHOSE, cli.WHOSE, runner.WHOSE) == ("mine", "mine", "mine")
import runfold
with runfold.run("mine") as run:
    with run.step("first"):
        run.say("hello")
print(run.id)
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both wheels, built with what is installed here: no network."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, ROOT / "packaging" / "client"):
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, project],
            env=environment(folder, RUNFOLD_WEB="skip"),
            check=True,
            timeout=110,
        )
    return folder


def packages(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {name.partition("/")[0] for name in names if ".dist-info/" not in name}


def test_the_client_holds_one_package_and_the_tool_holds_all(wheels: Path) -> None:
    client = next(wheels.glob("runfold_client-*.whl"))
    tool = next(wheels.glob("runfold-*.whl"))

    assert packages(client) == {"runfold"}
    assert packages(tool) == TOOL


@pytest.mark.skipif(not (BUNDLE / "index.html").is_file(), reason="no dashboard is built")
def test_the_tool_holds_its_dashboard_and_the_client_none(wheels: Path) -> None:
    tool, client = (
        set(zipfile.ZipFile(next(wheels.glob(name))).namelist()) for name in ("runfold-*.whl", "runfold_client-*.whl")
    )

    built = {
        f"api/bundle/{path.relative_to(BUNDLE)}"
        for path in BUNDLE.rglob("*")
        if path.suffix in (".js", ".css", ".html")
    }
    assert built <= tool
    assert not {name for name in client if "bundle" in name}


def test_the_client_needs_msgspec_and_nothing_else(wheels: Path) -> None:
    archive = zipfile.ZipFile(next(wheels.glob("runfold_client-*.whl")))
    metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))

    needs = [line for line in archive.read(metadata).decode().splitlines() if line.startswith("Requires-Dist")]

    assert needs == ["Requires-Dist: msgspec>=0.22.0"]


def test_the_client_reports_from_a_project_with_packages_of_the_same_names(wheels: Path, tmp_path: Path) -> None:
    data, project, home = tmp_path / "data", tmp_path / "project", tmp_path / "venv"
    data.mkdir()
    for name in ("api", "cli", "runner"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text('WHOSE = "mine"\n')
    (project / "program.py").write_text(PROGRAM)
    python = client_alone(home, next(wheels.glob("runfold_client-*.whl")))

    with started(data, "up", "--port", "0") as server:
        first_line(server)
        done = subprocess.run(
            [python, "program.py"], cwd=project, env=environment(data), capture_output=True, text=True, timeout=60
        )

    assert done.returncode == 0, done.stderr
    run_id = done.stdout.strip()
    assert read(data, "status", run_id)["status"] == "completed"
    assert [recorded.type for recorded in stored(data, run_id)][2:5] == ["step_started", "message", "step_completed"]


def client_alone(home: Path, wheel: Path) -> Path:
    """A Python that has the client, and msgspec as it is here."""
    venv.create(home, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = home / "lib" / version / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    (site / "msgspec").symlink_to(Path(sysconfig.get_path("purelib")) / "msgspec")
    return home / "bin" / "python"
