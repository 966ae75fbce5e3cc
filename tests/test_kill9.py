"""A server killed under load loses nothing that it acknowledged, and nobody who comes back sees anything twice."""

import os
import random
from pathlib import Path

import pytest

from bench.kill9 import Outcome, kill_again_and_again


@pytest.mark.slow
async def test_a_killed_server_has_lost_doubled_and_disordered_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("RUNFOLD_TEST_SEED", random.randrange(2**32)))
    print(f"RUNFOLD_TEST_SEED={seed}")

    found = await kill_again_and_again(tmp_path / "data", kills=2, seed=seed)

    work = {"acknowledged": found.acknowledged, "stored": found.stored}
    work |= {"retries": found.retries, "reconnects": found.reconnects}
    assert found.acknowledged > 50
    assert found == Outcome(2, integrity="ok", **work)
