"""Leases on a real file, with the clocks passed in: who holds a claim, until when, and who lost it."""

from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from eventstore.leases import LEASE_SECONDS, Lease, Leases
from runfold.errors import Fenced

SECOND = 1_000_000
LEASE = Lease(
    run_id="r_a", tenant="default", claim=1, owner="w1", host="h", boot_id="b1", pid=1, pid_started_at="1.0"
)  # fmt: skip


class Clocks:
    """Time since the boot, which stands still in sleep, and time of day, which does not."""

    def __init__(self) -> None:
        self.monotonic_us = 1_000 * SECOND
        self.wall_us = 2_000_000 * SECOND

    def work(self, seconds: float) -> None:
        self.monotonic_us += int(seconds * SECOND)
        self.wall_us += int(seconds * SECOND)

    def sleep(self, seconds: float) -> None:
        self.wall_us += int(seconds * SECOND)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def leases(tmp_path: Path, clocks: Clocks) -> Generator[Leases]:
    leases = Leases.open(tmp_path, monotonic_us=lambda: clocks.monotonic_us, wall_us=lambda: clocks.wall_us)
    yield leases
    leases.close()


def successor(**changes: object) -> Lease:
    return msgspec.structs.replace(LEASE, **{"owner": "w2", "pid": 2, **changes})


def test_a_lease_lasts_its_seconds_and_is_expired_at_their_end(leases: Leases, clocks: Clocks) -> None:
    leases.take(LEASE)

    clocks.work(LEASE_SECONDS - 0.001)
    before = leases.expired("h", "b1")
    clocks.work(0.001)

    assert before == []
    assert [lease.owner for lease in leases.expired("h", "b1")] == ["w1"]


def test_a_renewed_lease_lasts_its_seconds_again(leases: Leases, clocks: Clocks) -> None:
    leases.take(LEASE)
    clocks.work(LEASE_SECONDS - 1)

    assert leases.renew("r_a", 1)

    clocks.work(LEASE_SECONDS - 1)
    assert leases.expired("h", "b1") == []


def test_a_host_that_sleeps_does_not_lose_its_leases(leases: Leases, clocks: Clocks) -> None:
    leases.take(LEASE)

    clocks.sleep(8 * 3600)

    assert leases.expired("h", "b1") == []


def test_a_lease_from_before_the_boot_is_expired_whatever_the_clock_says(leases: Leases, clocks: Clocks) -> None:
    leases.take(LEASE)

    clocks.monotonic_us = 0

    assert [lease.owner for lease in leases.expired("h", "b2")] == ["w1"]


def test_leases_of_another_host_are_not_judged_by_this_ones_clock(leases: Leases, clocks: Clocks) -> None:
    leases.take(LEASE)

    clocks.work(LEASE_SECONDS * 2)

    assert leases.expired("h2", "b1") == []


def test_a_released_lease_is_gone_and_cannot_be_renewed(leases: Leases) -> None:
    leases.take(LEASE)

    leases.release("r_a", 1)

    assert leases.of_host("h") == []
    assert not leases.renew("r_a", 1)


def test_a_lease_that_lost_its_claim_can_neither_be_renewed_nor_released_nor_taken_again(leases: Leases) -> None:
    leases.take(LEASE)
    taken = leases.take(successor(claim=2))

    assert not leases.renew("r_a", 1)
    leases.release("r_a", 1)
    with pytest.raises(Fenced, match="w2"):
        leases.take(LEASE)

    assert leases.of_host("h") == [taken]


def test_of_two_workers_who_want_the_same_claim_the_second_does_not_take_the_firsts_lease(leases: Leases) -> None:
    taken = leases.take(LEASE)

    with pytest.raises(Fenced, match="w1"):
        leases.take(successor())

    assert leases.of_host("h") == [taken]


@pytest.mark.parametrize("how", ["it ran out", "its host booted again"])
def test_the_claim_of_a_worker_that_died_before_it_was_recorded_can_be_taken(
    leases: Leases, clocks: Clocks, how: str
) -> None:
    leases.take(LEASE)
    boot_id = "b1"
    if how == "it ran out":
        clocks.work(LEASE_SECONDS)
    else:
        boot_id = "b2"

    taken = leases.take(successor(boot_id=boot_id))

    assert leases.of_host("h") == [taken]


def test_a_worker_may_take_its_own_lease_again(leases: Leases, clocks: Clocks) -> None:
    leases.take(LEASE)
    clocks.work(10)

    taken = leases.take(LEASE)

    assert leases.of_host("h") == [taken]
    assert taken.expires_monotonic_us == clocks.monotonic_us + int(LEASE_SECONDS * SECOND)


def test_leases_outlive_the_process_that_wrote_them(leases: Leases, tmp_path: Path) -> None:
    taken = leases.take(LEASE)

    other = Leases.open(tmp_path)

    assert other.of_host("h") == [taken]
    other.close()
