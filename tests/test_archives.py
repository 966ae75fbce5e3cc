"""A run in one file: it proves itself, is read without being imported, and comes back as it was."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from eventstore.failpoints import NAME as FAILPOINT
from eventstore.keeping.archive import is_archive, write_archive
from eventstore.keeping.redacting import redact
from eventstore.keeping.restoring import opened_archive, restore
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from eventstore.state_file import read_state
from projections.engine.views import Views
from projections.runs import get_run
from runfold.errors import BadRequest, NotAllowed, NotFound, Refused
from runfold.snapshot import Snapshot
from tests.folders import contents
from tests.leaked import SECRET, record
from tests.ledgers import RUN, act, opened, say, stored
from tests.tampering import find
from tests.terminal import runfold


def snapshot_of(data: Path) -> Snapshot:
    views = Views.open(data)
    try:
        views.refresh()
        found = get_run(views.connection, RUN, tenant=None)
        assert found is not None
        return found
    finally:
        views.close()


@pytest.fixture
async def archive(tmp_path: Path) -> Path:
    await record(tmp_path / "here")
    write_archive(tmp_path / "here", tmp_path / "run.tar.zst", [RUN], now_us=1)
    return tmp_path / "run.tar.zst"


async def test_an_archived_run_comes_back_as_it_was(tmp_path: Path, archive: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    async with opened(there, "r_other") as ledger:
        await act(ledger, say("a"), run_id="r_other")

    (restored,) = restore(archive, there, actor="user:a")

    assert (restored.events_new, restored.events_filled) == (len(stored(here)), 0)
    assert [(event.hash, event.data) for event in stored(there)] == [(event.hash, event.data) for event in stored(here)]
    assert msgspec.structs.replace(snapshot_of(there), position=0) == msgspec.structs.replace(
        snapshot_of(here), position=0
    )
    for name in (f"runs/{RUN}/output.log", *(str(path.relative_to(here)) for path in here.glob("blobs/*/*"))):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    assert find(there) == []


async def test_an_archive_is_imported_once(tmp_path: Path, archive: Path) -> None:
    restore(archive, tmp_path / "there", actor="user:a")

    (again,) = restore(archive, tmp_path / "there", actor="user:a")

    assert (again.events_new, again.events_filled, again.files) == (0, 0, 0)
    assert find(tmp_path / "there") == []


async def test_an_archive_with_one_flipped_bit_is_refused_and_changes_nothing(tmp_path: Path, archive: Path) -> None:
    there = tmp_path / "there"
    async with opened(there):
        pass
    before = contents(there)
    whole = archive.read_bytes()
    chance = random.Random(5)
    # One in every part of the file: its head, its manifest, events, blobs and output, and its end.
    size = len(whole) * 8
    bits = [0, 1, 35, size - 1, *(chance.randrange(size * part // 64, size * (part + 1) // 64) for part in range(64))]

    for bit in bits:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(content)
        assert is_archive(archive)
        with pytest.raises(BadRequest, match=r"the archive .* is damaged"):
            restore(archive, there, actor="user:a")

    assert contents(there) == before


PROGRAM = """
import sys
from pathlib import Path
from eventstore.keeping.restoring import restore
restore(Path(sys.argv[1]), Path(sys.argv[2]), actor="user:a")
"""
PLACES = ("restore.before_commit", "restore.committed", "intent.renamed", "restore.settled")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
async def test_a_restore_that_is_killed_has_brought_the_run_or_has_not(
    tmp_path: Path, archive: Path, place: str
) -> None:
    there = tmp_path / "there"
    async with opened(there, "r_other") as ledger:
        await act(ledger, say("a"), run_id="r_other")
    others = stored(there, "r_other")

    killed = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(archive), str(there)], env={**os.environ, FAILPOINT: place}, check=False
    )
    log = await SqliteLog.open(there)  # Whoever opens it next for writing settles what is open.
    await log.close()

    assert killed.returncode == -signal.SIGKILL
    assert find(there) == []
    is_done = place != "restore.before_commit"
    archived = [(event.hash, event.data) for event in stored(tmp_path / "here")]
    assert [(event.hash, event.data) for event in stored(there)] == (archived if is_done else [])
    assert (there / "runs" / RUN / "output.log").exists() == is_done
    assert stored(there, "r_other") == others
    assert [*there.glob("runs/*/*.restored"), *there.glob("pending")] == []
    # Again, from wherever it was: the same end.
    restore(archive, there, actor="user:a")
    assert [(event.hash, event.data) for event in stored(there)] == archived
    assert find(there) == []


async def test_an_archive_that_was_cut_off_is_refused(tmp_path: Path, archive: Path) -> None:
    whole = archive.read_bytes()

    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        archive.write_bytes(whole[:size])
        with pytest.raises(BadRequest, match="damaged"):
            restore(archive, tmp_path / "there", actor="user:a")


async def test_an_archive_of_somebody_who_seals_what_he_altered_is_refused(tmp_path: Path, archive: Path) -> None:
    here = tmp_path / "altered"
    shutil.copytree(tmp_path / "here", here)
    connection = sqlite3.connect(here / "log.db")
    connection.execute("DROP TRIGGER events_stay")
    connection.execute("""UPDATE events SET data = CAST('{"text":"other"}' AS BLOB) WHERE type = 'message'""")
    connection.commit()
    connection.close()
    write_archive(here, tmp_path / "altered.tar.zst", [RUN], now_us=1)

    with pytest.raises(BadRequest, match="does not match its hash"):
        restore(tmp_path / "altered.tar.zst", tmp_path / "there", actor="user:a")


async def test_a_run_that_went_another_way_is_not_mixed_with_its_archive(tmp_path: Path, archive: Path) -> None:
    async with opened(tmp_path / "there") as ledger:
        await act(ledger, say("another story"))
    before = stored(tmp_path / "there")

    with pytest.raises(Refused, match="not the one of the archive"):
        restore(archive, tmp_path / "there", actor="user:a")

    assert stored(tmp_path / "there") == before


async def test_only_what_rests_is_archived_and_nothing_is_overwritten(tmp_path: Path, archive: Path) -> None:
    async with opened(tmp_path / "there"):
        with pytest.raises(NotAllowed, match="is not over"):
            write_archive(tmp_path / "there", tmp_path / "x.tar.zst", [RUN], now_us=1)
    with pytest.raises(NotFound):
        write_archive(tmp_path / "there", tmp_path / "x.tar.zst", ["r_unknown"], now_us=1)
    with pytest.raises(BadRequest, match="exists already"):
        write_archive(tmp_path / "here", archive, [RUN], now_us=1)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "run.tar.zst", "there"]


async def test_what_was_redacted_since_does_not_come_back_from_an_archive(tmp_path: Path, archive: Path) -> None:
    here = tmp_path / "here"
    redact(here, RUN, texts=[SECRET], actor="user:a")

    restore(archive, here, actor="user:a")

    assert SECRET.encode() not in b"".join(contents(here / "runs").values())
    assert all(SECRET.encode() not in (event.data or b"") for event in stored(here))
    assert find(here) == []


async def test_an_archive_is_a_data_folder_of_its_own(archive: Path) -> None:
    with opened_archive(archive) as folder:
        assert find(folder) == []
        assert snapshot_of(folder).status == "completed"
    assert not folder.exists()


ARCHIVE_COMMANDS = ("status", "events", "history", "logs", "steps", "report", "why", "replay")


@pytest.mark.slow
async def test_a_run_is_exported_read_from_its_file_and_imported(tmp_path: Path) -> None:
    here, there, path = tmp_path / "here", tmp_path / "there", tmp_path / "run.tar.zst"
    await record(here)
    state = json.loads((here / "runs" / RUN / "state.json").read_bytes())

    exported = runfold(here, "export", RUN, str(path))
    read = {name: runfold(there, name, str(path)).stdout for name in ARCHIVE_COMMANDS}
    nothing = list(there.glob("*"))
    imported = runfold(there, "import", str(path))

    assert (exported.returncode, exported.stderr) == (0, f"next: runfold status {path}\n")
    assert nothing == []
    assert imported.returncode == 0, imported.stderr
    assert read == {name: runfold(there, name, RUN).stdout for name in read}
    assert "Run r_a" in read["status"]
    assert runfold(there, "verify").returncode == 0
    assert json.loads((there / "runs" / RUN / "state.json").read_bytes()) == state
    assert "known: nothing new" in runfold(there, "import", str(path)).stdout
    log = await SqliteLog.open(there)
    await log.close()


@pytest.mark.slow
async def test_the_state_file_of_an_imported_run_says_where_it_stands_in_its_new_log(
    tmp_path: Path, archive: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    runfold(there, "run", "--", "true")

    imported = runfold(there, "import", str(archive))
    again = runfold(here, "import", str(archive))

    assert (imported.returncode, again.returncode) == (0, 0)
    assert [runfold(data, "verify").returncode for data in (here, there)] == [0, 0]
    file = read_state(there, RUN)
    assert file is not None
    assert (file.run_status, file.position) == ("completed", stored(there)[-1].position)


@pytest.mark.slow
async def test_an_import_of_a_damaged_archive_makes_no_log_and_takes_the_others(tmp_path: Path, archive: Path) -> None:
    damaged = tmp_path / "damaged.tar.zst"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    alone = runfold(tmp_path / "there", "import", str(damaged))
    is_made = (tmp_path / "there").exists()
    both = runfold(tmp_path / "there", "import", str(damaged), str(archive))

    assert (alone.returncode, is_made) == (1, False)
    assert alone.stderr == (
        f"error: the archive `{damaged}` is damaged: its content does not match its seal\n\n"
        "hint: take another copy of it; nothing was changed\n\n"
    )
    assert (both.returncode, RUN in both.stdout) == (1, True)
