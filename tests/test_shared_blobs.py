"""Blobs of machines that share a log: what one stores all can read, checked, from the store they share."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from eventstore.mirrored import Mirrored, note_mirrored
from eventstore.objects import blobs
from eventstore.objects.object_store import open_store
from runfold.errors import InvalidSetting, NotFound, Unavailable

Machine = Callable[[str], Path]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A new data folder that mirrors the log and shares the store of all."""

    def make(name: str) -> Path:
        data = tmp_path / name
        data.mkdir()
        store = f"file://{tmp_path / 'store'}"
        note_mirrored(data, Mirrored(address="nats://a", log_id="l", blobs=store))
        return data

    return make


def shared(machine_folder: Path, sha256: str) -> Path:
    return machine_folder.parent / "store" / "blobs" / sha256[:2] / sha256


def test_what_one_machine_stores_another_reads(machine: Machine) -> None:
    one, two, three = machine("one"), machine("two"), machine("three")
    arriving = blobs.Incoming(one)
    arriving.write(b"in ")
    arriving.write(b"parts")

    names = [blobs.put(one, b"whole"), arriving.keep()]

    assert [blobs.get(two, name) for name in names] == [b"whole", b"in parts"]
    assert [blobs.path_of(three, name).read_bytes() for name in names] == [b"whole", b"in parts"]


def test_what_no_machine_has_stored_is_not_there(machine: Machine) -> None:
    for read in (blobs.get, blobs.path_of):
        with pytest.raises(NotFound):
            read(machine(read.__name__), hashlib.sha256(b"never").hexdigest())


def test_the_same_blob_of_two_machines_is_one(machine: Machine) -> None:
    one, two = machine("one"), machine("two")
    sha256 = blobs.put(one, b"x")
    written = shared(one, sha256).stat().st_mtime_ns

    assert blobs.put(two, b"x") == sha256
    assert shared(one, sha256).stat().st_mtime_ns == written


def test_a_blob_that_is_damaged_in_the_store_is_not_served_and_leaves_nothing(machine: Machine) -> None:
    one, two = machine("one"), machine("two")
    sha256 = blobs.put(one, b"right")
    shared(one, sha256).write_bytes(b"wrong")

    with pytest.raises(Unavailable, match="damaged in the shared store"):
        blobs.get(two, sha256)

    assert [path for path in (two / "blobs").rglob("*") if path.is_file()] == []
    assert blobs.get(one, sha256) == b"right"


def test_a_store_that_cannot_be_written_refuses_the_blob(machine: Machine) -> None:
    one = machine("one")
    (one.parent / "store").write_text("a file, not a folder")

    with pytest.raises((Unavailable, InvalidSetting)):
        blobs.put(one, b"x")


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://a/b"])
def test_a_url_that_names_no_store_is_refused_with_how_to_write_one(url: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        open_store(url)

    assert "s3://" in refused.value.hint
