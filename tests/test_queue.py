"""Who waits for a worker is seen, and nobody takes more than it has slots for."""

from pathlib import Path

import pytest

from tests.terminal import read
from tests.working import working

pytestmark = pytest.mark.slow
TOML = "[workflow.w]\ncommand = ['true']\n"


async def test_doctor_says_how_many_runs_wait_and_which_waits_longest(tmp_path: Path) -> None:
    async with working(tmp_path, TOML, workers=0) as nobody:
        first, _ = [await nobody.queue("w") for _ in range(2)]

    (found,) = (item for item in read(tmp_path / "data", "doctor")["findings"] if item["name"] == "queue")

    assert found["level"] == "note"
    assert found["text"].startswith(f"2 runs wait for a worker, {first} for ")
    assert found["text"].endswith("`runfold up` starts one")
