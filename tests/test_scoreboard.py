"""The benches' scoreboard: what it calls missed, and that a bench measured anew leaves the others' rows alone."""

from pathlib import Path

import pytest

import bench.__main__ as runner
from bench.scoreboard import Figure, compared, show


def test_a_figure_below_its_floor_or_above_its_ceiling_is_missed_and_the_bench_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = compared("append", "events/s", [80.0, 90.0], [100.0, 100.0], beside="a bare insert", floor=0.7)
    slow = compared("append", "events/s", [60.0, 50.0], [100.0, 100.0], beside="a bare insert", floor=0.7)
    late = Figure(work="p99", value=16.0, unit="ms", ceiling=15.0)

    assert show([kept]) == 0
    assert show([kept, slow]) == 1
    assert show([late]) == 1
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["ok", "ok", "MISSED", "MISSED"]


def test_a_bench_measured_anew_leaves_the_rows_of_the_others_and_what_is_below_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "RESULTS.md")
    runner.write({"append": [Figure(work="first", value=1.0, unit="s")]})
    with runner.RESULTS.open("a") as file:
        file.write("\n## By hand\n\nkept\n")

    runner.write({"sse": [Figure(work="other", value=2.0, unit="s")]})
    runner.write({"append": [Figure(work="second", value=3.0, unit="s")]})

    text = runner.RESULTS.read_text()
    assert "| append | second |" in text
    assert "| append | first |" not in text
    assert "| sse | other |" in text
    assert text.endswith("\n## By hand\n\nkept\n")
