"""A snapshot says in public words what the fold knows, and says nothing where it knows nothing."""

from typing import Any

import msgspec
import pytest

from runfold.events import Failure
from runfold.report import report
from runfold.snapshot import snapshot
from runfold.state import Run, Tokens, Units

START_US = 1_700_000_000_000_000


def run(**fields: Any) -> Run:
    fields = {"status": "running", "created_at_us": START_US, "updated_at_us": START_US, **fields}
    return Run(run_id="r_1", **fields)


def test_an_unknown_cost_is_null_and_never_zero() -> None:
    assert snapshot(run(), position=1).stats.cost_usd is None
    assert snapshot(run(cost_micros=0), position=1).stats.cost_usd == 0
    assert snapshot(run(cost_micros=420_000), position=1).stats.cost_usd == 0.42


def test_a_snapshot_is_json_with_the_documented_names() -> None:
    made = msgspec.to_builtins(snapshot(run(tokens=Tokens(input_tokens=3, output_tokens=4), turn=2), position=9))

    assert made["stats"]["tokens"]["total"] == 7
    assert (made["position"], made["current_turn"], made["lineage"]["retry_of"]) == (9, None, None)
    assert made["created_at"] == "2023-11-14T22:13:20.000000Z"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"started_at_us": START_US, "updated_at_us": START_US + 5_000_000}, 5_000),
        (
            {
                "status": "completed",
                "started_at_us": START_US,
                "completed_at_us": START_US + 2_000_000,
                "updated_at_us": START_US + 9_000_000,
            },
            2_000,
        ),
        ({"started_at_us": START_US, "updated_at_us": START_US - 1}, 0),
    ],
)
def test_a_duration_ends_with_the_run_or_its_last_event(fields: dict[str, Any], expected: int | None) -> None:
    assert snapshot(run(**fields), position=1).duration_ms == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("queued", "in-progress"),
        ("paused", "in-progress"),
        ("stopping", "in-progress"),
        ("completed", "completed"),
        ("failed", "failed"),
        ("stopped", "stopped"),
        ("cancelled", "stopped"),
    ],
)
def test_a_report_reads_every_status_as_one_of_four(status: str, expected: str) -> None:
    assert report(run(status=status)).status == expected


def test_a_report_counts_units_also_under_their_own_word() -> None:
    units = Units(started=5, approved=3, rejected=1, lost={"u5": "rejected"}, attempts=7, retried=2)

    metrics = report(run(unit_name="frame", units_total=8, units=units)).metrics

    assert (metrics["frames_completed"], metrics["frames_failed"], metrics["units_remaining"]) == (3, 1, 4)
    assert (metrics["retry_rate"], metrics["reject_rate"], metrics["total_attempts"]) == (0.25, 0.25, 7)


def test_a_report_of_a_rested_run_says_what_to_type_next() -> None:
    assert report(run(status="stopped")).details["resume_command"] == "runfold resume r_1"
    assert report(run(status="cancelled")).details["resume_command"] == "runfold retry r_1"


def test_a_report_of_a_failed_run_carries_its_error() -> None:
    error = Failure(type="dependency", code="DEP_API_UNAVAILABLE", message="no answer")

    details = report(run(status="failed", reason_code="DEP_API_UNAVAILABLE", error=error)).details

    assert (details["error_type"], details["error_code"]) == ("dependency", "DEP_API_UNAVAILABLE")
    assert details["error_message"] == "no answer"
