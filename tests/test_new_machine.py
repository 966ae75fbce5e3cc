"""A new machine of a cluster begins with the newest snapshot that holds, and follows the log from there."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.snapshotting import snapshot_where_due
from eventstore.jetstream.address import parse_address
from eventstore.jetstream.log import JetStreamLog
from eventstore.keeping.snapshots import copy_mirror, put_snapshot, snapshots
from eventstore.log_file import LOG_FILE, USER_VERSION
from eventstore.objects.object_store import open_store
from projections.catalogue import VIEWS
from projections.engine.seeding import bring_views
from projections.engine.views import Views
from runfold.errors import InvalidSetting
from runfold.events import EventRedacted, encode_data
from tests.contract.events import all_events, new_event, run
from tests.contract.jetstream import shared_cluster
from tests.format_1 import bring_back
from tests.machines import Machines
from tests.tampering import find


class Snapshotted(Machines):
    """Machines that leave snapshots of their mirrors and views in the store that they share."""

    def fold(self, name: str) -> Any:
        """The rows of the list of runs, after catching up; and where the views began."""
        views = Views.open(self.folder / name)
        try:
            began = min(checkpoint.position for checkpoint in views.checkpoints().values())
            views.refresh()
            rows = views.connection.execute("SELECT run_id, status FROM runs ORDER BY run_id").fetchall()
        finally:
            views.close()
        return began, rows

    def snapshot(self, name: str) -> Any:
        return snapshot_where_due(self.folder / name, self.store, events_due=5)

    def stored(self, name: str) -> Path:
        (found,) = (self.folder / "store" / "snapshots").rglob(f"{name}.zst")
        return found


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncGenerator[Snapshotted]:
    async with Snapshotted(shared_cluster(), tmp_path, shares=True) as made:
        yield made


def brought(machines: Snapshotted, name: str, log: JetStreamLog) -> int:
    return bring_views(machines.folder / name, open_store(machines.store), log.cluster.log_id)


@pytest.mark.slow
async def test_a_new_machine_begins_with_the_newest_snapshot_and_shows_the_same(machines: Snapshotted) -> None:
    one = await machines.open("one")
    await one.append("r_a", run(), expected=0)
    machines.fold("one")
    made = machines.snapshot("one")
    later = await one.append("r_b", run(ended=False), expected=0)

    two = await machines.open("two")
    began_at = two.began_at
    position = brought(machines, "two", two)

    assert (made.position, began_at, position) == (5, 5, 5)
    assert await all_events(two) == await all_events(one)
    assert (await two.bounds()).last == later.last
    began, rows = machines.fold("two")
    assert began == 5
    assert rows == machines.fold("one")[1] == [("r_a", "completed"), ("r_b", "running")]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["log.db", "views.db"])
async def test_a_damaged_snapshot_is_passed_over(machines: Snapshotted, what: str) -> None:
    one = await machines.open("one")
    await one.append("r_a", run(), expected=0)
    machines.fold("one")
    machines.snapshot("one")
    content = bytearray(machines.stored(what).read_bytes())
    content[len(content) // 2] ^= 1
    machines.stored(what).write_bytes(content)

    two = await machines.open("two")

    assert (two.began_at, brought(machines, "two", two)) == ((0, 5) if what == "log.db" else (5, 0))
    assert await all_events(two) == await all_events(one)
    assert machines.fold("two")[1] == machines.fold("one")[1]


@pytest.mark.slow
async def test_a_snapshot_of_another_log_or_of_other_views_is_passed_over(
    machines: Snapshotted, tmp_path: Path
) -> None:
    one = await machines.open("one")
    await one.append("r_a", run(), expected=0)
    machines.fold("one")
    machines.snapshot("one")
    async with Machines(shared_cluster(), tmp_path / "other", shares=True) as other:
        strange = await other.open("one")
        await strange.append("r_z", run(), expected=0)
        (tmp_path / "other" / "store" / "snapshots").mkdir(parents=True)
        # Another log of as many events under this one's name.
        source = tmp_path / "store" / "snapshots" / one.cluster.log_id
        target = tmp_path / "other" / "store" / "snapshots" / strange.cluster.log_id
        source.rename(target)
        for manifest in target.rglob("manifest.json"):
            manifest.write_text(manifest.read_text().replace(one.cluster.log_id, strange.cluster.log_id))

        two = await other.open("two")

        assert two.began_at == 0
        assert [event.run_id for event in await all_events(two)] == ["r_z"] * 5
        assert bring_views(tmp_path / "three", open_store(machines.store), one.cluster.log_id, VIEWS[:2]) == 0


@pytest.mark.slow
async def test_a_snapshot_whose_log_only_a_newer_runfold_reads_is_passed_over(machines: Snapshotted) -> None:
    one = await machines.open("one")
    await one.append("r_a", run(), expected=0)
    made = machines.snapshot("one")
    (manifest,) = (machines.folder / "store" / "snapshots").rglob("manifest.json")
    manifest.write_bytes(msgspec.json.encode(msgspec.structs.replace(made, format=USER_VERSION + 1)))

    two = await machines.open("two")

    assert (made.format, two.began_at) == (USER_VERSION, 0)
    assert await all_events(two) == await all_events(one)


@pytest.mark.slow
async def test_a_snapshot_of_an_older_runfold_is_brought_forward(machines: Snapshotted) -> None:
    one = await machines.open("one")
    await one.append("r_a", run(), expected=0)
    older = machines.folder / "older.db"
    made = copy_mirror(machines.folder / "one", older, now_us=1)
    bring_back(older)
    put_snapshot(open_store(machines.store), msgspec.structs.replace(made, format=1), {LOG_FILE: older})

    two = await machines.open("two")
    later = await one.append("r_b", run(ended=False), expected=0)

    assert two.began_at == 5
    assert await all_events(two) == await all_events(one)
    assert (await two.bounds()).last == later.last


@pytest.mark.slow
async def test_a_mirror_of_an_older_runfold_is_brought_forward_and_followed(machines: Snapshotted) -> None:
    one = await machines.open("one")
    await one.append("r_a", run(), expected=0)
    older = await JetStreamLog.connect(machines.address, machines.folder / "two", blobs=machines.store)
    await older.bounds()
    await older.close()
    bring_back(machines.folder / "two" / LOG_FILE)
    later = await one.append("r_b", run(ended=False), expected=0)

    two = await machines.open("two")

    assert (await two.bounds()).last == later.last
    assert await all_events(two) == await all_events(one)
    assert find(machines.folder / "two") == []


@pytest.mark.slow
async def test_a_snapshot_from_before_a_redaction_goes_at_once(machines: Snapshotted) -> None:
    one = await machines.open("one")
    appended = await one.append("r_a", run(), expected=0)
    first = machines.snapshot("one")
    told = encode_data(EventRedacted(version=3))
    await one.append("r_a", [new_event(told, type_name="event_redacted")], expected=appended.last)

    second = machines.snapshot("one")

    kept = list(snapshots(open_store(machines.store), one.cluster.log_id))
    assert (first.position, second.position) == (5, 6)
    assert [snapshot.position for snapshot in kept] == [6]
    assert machines.snapshot("one") is None


@pytest.mark.slow
async def test_a_machine_whose_store_cannot_be_named_leaves_no_connection_open(tmp_path: Path) -> None:
    address = parse_address(shared_cluster().url(f"t{uuid.uuid4().hex}"))
    before = asyncio.all_tasks()

    with pytest.raises(InvalidSetting, match="names no store"):
        await JetStreamLog.connect(address, tmp_path, blobs="nowhere://store")

    assert asyncio.all_tasks() == before
