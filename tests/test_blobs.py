"""A blob is on the disk, whole and under its own name, before anybody hears of it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eventstore.objects import blobs
from runfold.errors import BadRequest, NotFound, Unavailable

CONTENT = b"what a program said" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the disk, in order; every call still reaches it."""
    asked: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        asked.append("fsync " + Path(os.readlink(f"/proc/self/fd/{handle}")).name[:5])
        fsync(handle)

    def noted_replace(source: Any, target: Any) -> None:
        asked.append("rename " + Path(source).name[:5] + " " + Path(target).name[:5])
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return asked


@pytest.mark.skipif(sys.platform != "linux", reason="names open files by /proc")
def test_a_blob_is_synced_before_it_has_its_name_and_the_name_before_put_returns(
    tmp_path: Path, calls: list[str]
) -> None:
    blobs.put(tmp_path, CONTENT)

    last = [call for call in calls if call != f"fsync {tmp_path.name[:5]}"]
    assert (
        last
        == [
            "fsync blobs",  # The new folder of the first two digits.
            "fsync .new-",
            f"rename .new- {SHA256[:5]}",
            f"fsync {SHA256[:2]}",
        ]
    )


@pytest.mark.skipif(sys.platform != "linux", reason="names open files by /proc")
def test_the_same_content_again_writes_nothing_and_still_makes_its_name_durable(
    tmp_path: Path, calls: list[str]
) -> None:
    blobs.put(tmp_path, CONTENT)
    calls.clear()

    assert blobs.put(tmp_path, CONTENT) == SHA256

    assert calls == [f"fsync {SHA256[:2]}"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [SHA256]


def test_a_blob_comes_back_byte_for_byte(tmp_path: Path) -> None:
    for content in (b"", b"\0\xff", CONTENT):
        assert blobs.get(tmp_path, blobs.put(tmp_path, content)) == content


def test_a_damaged_blob_is_named_and_never_served_and_storing_it_again_heals_it(tmp_path: Path) -> None:
    blobs.put(tmp_path, CONTENT)
    path = tmp_path / "blobs" / SHA256[:2] / SHA256
    path.write_bytes(CONTENT[:-1] + b"!")

    with pytest.raises(NotFound, match=f"blob `{SHA256}` is damaged"):
        blobs.get(tmp_path, SHA256)
    blobs.put(tmp_path, CONTENT)

    assert blobs.get(tmp_path, SHA256) == CONTENT


def test_an_absent_blob_and_a_name_that_is_none_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not stored"):
        blobs.get(tmp_path, SHA256)
    with pytest.raises(BadRequest, match="is not a sha256"):
        blobs.get(tmp_path, "../../etc/passwd")


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file where the folder should be")

    with pytest.raises(Unavailable, match=r"cannot be stored in .*blobs") as refused:
        blobs.put(tmp_path, CONTENT)

    assert "try again" in refused.value.hint


@pytest.mark.slow
def test_a_disk_that_takes_no_more_leaves_no_half_blob_behind(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys; from pathlib import Path; from eventstore.objects import blobs;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024));"
        "blobs.put(Path(sys.argv[1]), b'x' * 4096)"
    )

    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)

    assert "runfold.errors.Unavailable" in ended.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
