"""`runfold status` says where a run stands, and where it stood, in the layout that people know."""

import re
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.terminal import Screen, environment, first_line, read, record, runfold, started

pytestmark = pytest.mark.slow
SPRITES = """
import json, sys, time
def say(kind, **fields): print(json.dumps({"runfold": {"type": kind, **fields}}), flush=True)
say("units_planned", total=8, unit_name="frame")
for index in (1, 2, 3):
    say("unit_started", unit=f"f{index}", index=index, attempt=1)
    if index == 2:
        say("unit_failed", unit="f2", index=2, attempt=1, reason="blurred")
    else:
        say("unit_approved", unit=f"f{index}", index=index, attempt=1)
say("unit_started", unit="f4", index=4, attempt=2)
say("unit_action", unit="f4", index=4, attempt=2, action="Generating frame 4 with IDENTITY_RESCUE")
say("token_usage", model="m", input_tokens=9, output_tokens=1, cost_micros=420_000)
print("up", flush=True)
"""
GOES_ON = f"{SPRITES}\ntime.sleep(60)\n"


def test_a_run_that_counts_units_shows_how_far_it_is(tmp_path: Path) -> None:
    with started(tmp_path, "run", "--quiet", "--title", "sprite-sheet", "--", sys.executable, "-c", GOES_ON) as driver:
        while first_line(driver) != "up":
            pass
        with started(tmp_path, "watch", "@last") as watching:
            while "token_usage" not in first_line(watching):
                pass
        environ = {**environment(tmp_path), "TERM": "xterm", "NO_COLOR": "1"}
        with closing(Screen([sys.executable, "-m", "runfold", "status", "@last"], environ)) as screen:
            screen.end()
            shown = screen.shown.replace("\r\n", "\n").splitlines()
        elsewhere = runfold(tmp_path, "status", "@last").stdout

    assert re.fullmatch(r"Run r_\w{26}   sprite-sheet   in-progress \(\w+\)", shown[0])
    assert re.fullmatch(r"Frame        4 of 8 \(attempt 2\)      Elapsed \d.*s(   about \d+.* left)?", shown[1])
    assert shown[2] == f"Progress     [{'█' * 12}{'░' * 20}] 37.5%"
    assert shown[3].startswith("Completed    2/8     Failed 1/8     Attempts 4     Retry rate ")
    assert shown[3].endswith("     Cost $0.42")
    assert "Now          Generating frame 4 with IDENTITY_RESCUE" in shown
    assert "Progress     37.5%\n" in elsewhere


def test_a_run_that_ended_shows_what_it_reached(tmp_path: Path) -> None:
    record(tmp_path, SPRITES)

    shown = runfold(tmp_path, "status", "@last").stdout

    assert re.search(r"^Duration     \d", shown, re.M)
    assert re.search(r"^Success      2/8 \(25\.0%\)     Failed 1/8     Attempts 4     Retry rate ", shown, re.M)
    assert "Now " not in shown


def test_status_shows_a_run_as_it_was_at_a_position_or_a_time(tmp_path: Path) -> None:
    record(tmp_path, SPRITES)
    events = read(tmp_path, "events", "@last")["items"]
    planned = next(event for event in events if event["type"] == "units_planned")

    by_position = read(tmp_path, "status", "@last", "--at", str(planned["position"]))
    by_time = read(tmp_path, "status", "@last", "--at", events[-1]["recorded_at"])
    refused = runfold(tmp_path, "status", "@last", "--at", "yesterday")
    beyond = runfold(tmp_path, "status", "@last", "--at", str(events[-1]["position"] + 1))
    later = runfold(tmp_path, "status", "@last", "--at", f"v{len(events) + 1}")
    screen = runfold(tmp_path, "status", "@last", "--at", str(planned["position"])).stdout

    assert (by_position["status"], by_position["version"]) == ("running", planned["version"])
    assert by_time == read(tmp_path, "status", "@last")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: `yesterday` is no position")
    assert beyond.returncode == 1
    assert beyond.stderr.startswith(f"error: the log ends at position {events[-1]['position']}\n")
    assert later.returncode == 1
    assert later.stderr.startswith(f"error: run `{by_time['id']}` ends at version {len(events)}\n")
    assert "in-progress" in screen
