"""Every reason code says what it means and what to do next."""

import pytest

from runfold.reasons import REASONS, approved_code, find_reason, is_open_code, limit_code, reason_status
from runfold.state import FINAL


@pytest.mark.parametrize("code", sorted(REASONS))
def test_every_reason_has_a_sentence_and_what_did_not_go_well_a_next_step(code: str) -> None:
    reason = REASONS[code]

    assert reason.code == code
    assert reason.sentence
    assert not reason.sentence.endswith(".")
    if reason.status in (FINAL - {"completed"}) | {"stopped"}:
        assert reason.next_step


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ALL_FRAMES_APPROVED", "completed"),
        ("DEP_TEXTUREPACKER_FAIL", "failed"),
        ("SYS_ANYTHING", "failed"),
        ("DEP_ANYTHING", "failed"),
        ("KILL_INCOMPLETE", "cancelled"),
        ("SOMETHING", None),
        ("SYS_", None),
        ("SYS_lower", None),
        ("", None),
    ],
)
def test_open_families_are_known_and_other_codes_are_not(code: str, status: str | None) -> None:
    assert reason_status(code) == status


def test_a_unit_gives_the_completed_code_its_word() -> None:
    assert approved_code("frame") == "ALL_FRAMES_APPROVED"
    assert find_reason(approved_code("test page")) is not None


def test_a_limit_names_the_reason_of_the_stop() -> None:
    assert limit_code("cost_usd_max") == "COST_LIMIT_EXCEEDED"
    assert limit_code("anything_else") == "CIRCUIT_BREAKER"


def test_only_the_open_families_are_a_programs_to_give() -> None:
    assert is_open_code("DEP_API_UNAVAILABLE")
    assert not is_open_code("EXIT_ZERO")
    assert not is_open_code(None)
