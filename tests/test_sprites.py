"""The sprite-sheet example, run for real: every reason code of its family, its files, and its two screens."""

import json
import re
import signal
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from runfold.evolve import evolve_recorded
from runfold.report import report
from runfold.state import new_run
from tests.ledgers import stored
from tests.terminal import ROOT, read, runfold, started

pytestmark = pytest.mark.slow
PROGRAM = ROOT / "examples" / "sprites" / "sprites.py"


def sprites(folder: Path, *words: str, limits: tuple[str, ...] = ()) -> Any:
    """Run the example; the run as it then is, and the exit code."""
    options = [word for limit in limits for word in ("--limit", limit)]
    program = (sys.executable, str(PROGRAM), "--folder", str(folder / "export"), *words)
    done = runfold(folder / "data", "run", "--quiet", "--title", "sprite-sheet", *options, "--", *program)
    return read(folder / "data", "status", "@last"), done.returncode


@pytest.mark.parametrize(
    ("words", "limits", "reason", "code"),
    [
        (("--story", "approved"), (), "ALL_FRAMES_APPROVED", 0),
        (("--story", "partial"), (), "PARTIAL_SUCCESS", 0),
        (("--story", "partial"), ("retry_rate=20%",), "RETRY_RATE_EXCEEDED", 75),
        (("--story", "hopeless"), ("reject_rate=40%",), "REJECT_RATE_EXCEEDED", 75),
        (("--story", "hopeless"), ("consecutive_fails=3",), "CONSECUTIVE_FAILS", 75),
        (("--story", "hopeless"), ("attempts=5",), "CIRCUIT_BREAKER", 75),
        (("--story", "partial"), ("cost=0.20",), "COST_LIMIT_EXCEEDED", 75),
        (("--fault", "manifest"), (), "SYS_MANIFEST_INVALID", 1),
        (("--fault", "api"), (), "DEP_API_UNAVAILABLE", 1),
        (("--fault", "packer"), (), "DEP_TEXTUREPACKER_FAIL", 1),
        (("--fault", "disk"), (), "SYS_WRITE_ERROR", 1),
    ],
)
def test_the_example_ends_with_every_reason_of_its_family(
    tmp_path: Path, words: tuple[str, ...], limits: tuple[str, ...], reason: str, code: int
) -> None:
    run, exit_code = sprites(tmp_path, *words, limits=limits)

    assert (run["reason_code"], exit_code) == (reason, code)
    assert run["report"]["reason_code"] == reason


def test_on_its_way_the_example_draws_audits_and_retries(tmp_path: Path) -> None:
    ended, _ = sprites(tmp_path, "--story", "partial")

    run, seen = new_run(ended["id"]), list[str]()
    for recorded in stored(tmp_path / "data", ended["id"]):
        run = evolve_recorded(run, recorded)
        if run.status == "running":
            seen.append(report(run).reason_code)
    assert set(seen) >= {"GENERATING", "AUDITING", "RETRYING"}
    assert seen.index("GENERATING") < seen.index("AUDITING") < seen.index("RETRYING")


def test_the_sheet_and_its_atlas_are_real(tmp_path: Path) -> None:
    run, _ = sprites(tmp_path, "--story", "partial")

    sheet = (tmp_path / "export" / "blaze_idle.png").read_bytes()
    atlas = json.loads((tmp_path / "export" / "blaze_idle.json").read_text())
    assert (sheet[:8], struct.unpack(">II", sheet[16:24])) == (b"\x89PNG\r\n\x1a\n", (7 * 32, 32))
    assert (len(atlas["frames"]), "frame-5" in atlas["frames"]) == (7, False)
    assert run["report"]["details"]["success_rate"] == 7 / 8


def test_an_interrupt_stops_it_where_it_is(tmp_path: Path) -> None:
    run = waiting(tmp_path)[1]

    assert (run["status"], run["reason_code"]) == ("stopped", "USER_INTERRUPT")
    assert run["report"]["details"]["units_remaining"] == 6


def test_the_screen_of_a_run_at_work(tmp_path: Path) -> None:
    assert masked(waiting(tmp_path)[0]) == (
        "Run ID   sprite-sheet   in-progress (RETRYING)\n"
        "Frame        3 of 8 (attempt 2)      Elapsed TIME\n"
        "Progress     25.0%\n"
        "Completed    2/8     Failed 0/8     Attempts 6     Retry rate 25.0%     Cost $0.20\n"
        "Now          Generating frame 3 with IDENTITY_RESCUE\n"
    )


def test_the_screen_of_a_run_that_is_done(tmp_path: Path) -> None:
    sprites(tmp_path, "--story", "partial")

    assert masked(runfold(tmp_path / "data", "status", "@last").stdout) == (
        "Run ID   sprite-sheet   completed (PARTIAL_SUCCESS)\n"
        "Duration     TIME\n"
        "Progress     100%\n"
        "Success      7/8 (87.5%)     Failed 1/8     Attempts 14     Retry rate 50.0%     Cost $0.70\n"
        "Export       export/   blaze_idle.png, blaze_idle.json   validation passed\n"
    )


def waiting(folder: Path) -> tuple[str, Any]:
    """The screen while the example stays at frame 3, and the run once it was interrupted there."""
    program = (sys.executable, str(PROGRAM), "--folder", str(folder / "export"), "--story", "partial", "--wait-at", "3")
    with started(folder / "data", "run", "--title", "sprite-sheet", "--", *program) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.strip() in ("waiting", b"waiting"):
                break
        screen = ""
        while "attempt 2" not in screen or "frame 3 with" not in screen:
            screen = runfold(folder / "data", "status", "@last").stdout
        driver.send_signal(signal.SIGINT)
        driver.wait(30)
    return screen, read(folder / "data", "status", "@last")


def masked(screen: str) -> str:
    """The screen without what differs in any two runs, and without the lines that every run has."""
    text = re.sub(r"r_[a-z2-7]{26}", "ID", screen)
    text = re.sub(r"\d+(\.\d)?s|\d+m \d+s", "TIME", text)
    # Drawn in no time, what is left is nothing to speak of on a quick machine, and some minutes on a busy one.
    text = re.sub(r" +about .+? left", "", text)
    return "".join(line + "\n" for line in text.splitlines() if not re.match(r"(Message|Turns|Tests|Limits?)\b", line))
