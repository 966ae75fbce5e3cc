"""Servers of a log that are unplugged from the network, in the midst of writers and followers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.effort import IS_LONG

ROOT = Path(__file__).parents[2]
ROUNDS = 6 if IS_LONG else 1
ROUND_SECONDS = 120


@pytest.mark.slow
@pytest.mark.timeout(ROUND_SECONDS * (ROUNDS + 1))
def test_servers_that_are_unplugged_cost_nothing_that_was_acknowledged_and_every_follower_sees_it_once(
    tmp_path: Path,
) -> None:
    if sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "unshare"))):
        pytest.skip("a network of its own needs root, Linux, iproute2 and util-linux")
    if subprocess.run(
        ["unshare", "-n", "ip", "link", "add", "name", "probe0", "type", "bridge"], check=False
    ).returncode:
        pytest.skip("this root may make no network of its own")

    command = [sys.executable, "-m", "tests.torture.partition", str(tmp_path), str(ROUNDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing was lost or doubled\n")
