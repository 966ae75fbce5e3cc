"""A shared store keeps its promises in a folder, and where such servers are on S3 and Azure: `make stores`."""

import hashlib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from eventstore.keeping.copy_keeping import Keeper
from eventstore.keeping.log_restoring import restore_log
from eventstore.keeping.second_copy import copied_log
from eventstore.mirrored import Mirrored, note_mirrored
from eventstore.objects import blobs
from eventstore.objects.object_store import ObjectStore, open_store
from eventstore.objects.shared_blobs import blob_key
from runfold.errors import RunfoldError
from tests import stores
from tests.terminal import record, runfold

LONG_BYTES = 12 * 1024 * 1024  # More than one part.


@pytest.fixture(scope="module", params=["file", *stores.HERE])
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path_factory.mktemp('store')}"
    else:
        with stores.serving(request.param) as url:
            yield url


@pytest.fixture
def url(bucket: str) -> str:
    return f"{bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def store(url: str) -> ObjectStore:
    return open_store(url)


def test_an_object_is_made_once_and_the_first_stays(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"second")

    made = [store.create("a/b", b"first"), store.create("a/b", b"second"), store.create("a/b", tmp_path / "file")]

    assert made == [True, False, False]
    assert (store.get("a/b"), store.has("a/b")) == (b"first", True)
    assert (store.get("a/c"), store.has("a/c")) == (None, False)


def test_of_many_who_make_one_object_at_once_exactly_one_does(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        for number in range(5):
            made = list(threads.map(partial(store.create, f"race/{number}"), [b"%d" % who for who in range(8)]))

            assert made.count(True) == 1
            assert store.get(f"race/{number}") == b"%d" % made.index(True)


@pytest.mark.slow
def test_what_is_replaced_uploaded_in_parts_or_removed_is_so(store: ObjectStore) -> None:
    store.create("a/b", b"first")
    store.replace("a/b", b"second")
    store.upload("long/1/x", iter([b"x" * (LONG_BYTES // 8)] * 8))
    replaced, long = store.get("a/b"), store.get("long/1/x")
    folders = store.folders("long")
    store.remove("a/b")
    store.remove("a/b")

    assert (replaced, long, store.get("a/b")) == (b"second", b"x" * LONG_BYTES, None)
    assert folders == ["1"]


def test_a_blob_of_any_store_is_checked_when_it_is_read(store: ObjectStore, url: str, tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for data in (one, two, three):
        data.mkdir()
        note_mirrored(data, Mirrored(address="nats://a", log_id="l", blobs=url))
    sha256 = blobs.put(one, b"content")

    found = blobs.get(two, sha256)
    store.replace(blob_key(sha256), b"Content")

    assert (found, sha256) == (b"content", hashlib.sha256(b"content").hexdigest())
    with pytest.raises(RunfoldError):
        blobs.get(three, sha256)


@pytest.mark.slow
def test_a_lost_log_is_made_again_from_any_store(store: ObjectStore, url: str, tmp_path: Path) -> None:
    data, again = tmp_path / "data", tmp_path / "again"
    for word in ("one", "two"):
        record(data, f"print('{word} ' * 1000)")
        assert Keeper(data, url, writer="one").step() is not None
    again.mkdir()

    restore_log(copied_log(store), store, again)

    proof = runfold(again, "verify", RUNFOLD_BLOBS=url)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert "2 segments of the copy" in proof.stdout
    assert "two" in runfold(again, "logs", "@last").stdout
