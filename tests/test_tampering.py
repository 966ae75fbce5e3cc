"""Whatever is altered in a folder is found, and nothing of it is served as if it were true."""

import random
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore.framing import Framing
from eventstore.log_file import open_reader
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import run_id_of
from runfold.errors import Damaged, RunfoldError
from tests.served import serving
from tests.tampering import RUNS, TAMPERS, edit, find, leave, tamper_truncate, tamper_view, write_log
from tests.terminal import runfold

TAMPERINGS = 200
FRESH = {"stale": False, "views_position": 0}


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    await write_log(folder)
    return folder


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a server tells of a log: by run, None where it refuses; `streamed` as far as it goes."""

    events: dict[str, Any]
    snapshots: dict[str, Any]
    past: dict[str, Any]
    streamed: dict[str | None, bytes]
    is_ready: bool


async def say(data: Path, run_ids: list[str]) -> Said | None:
    """Everything that a server just started on the folder says; None where it refuses to start."""
    try:
        async with serving(data) as served:

            async def answer(path: str) -> Any:
                response = await served.ask("GET", path)
                return await response.json() if response.status == 200 else None

            streamed: dict[str | None, bytes] = {}
            for stream in (None, *run_ids):
                after, parts = 0, [b""]
                with suppress(RunfoldError):
                    while (
                        page := await served.log.framed(after=after, framing=Framing(), stream=stream)
                    ).scanned_to > after:
                        after = page.scanned_to
                        parts.append(page.content)
                streamed[stream] = b"".join(parts)
            return Said(
                streamed=streamed,
                events={run_id: await answer(f"/api/runs/{run_id}/events?limit=200") for run_id in run_ids},
                snapshots={run_id: await answer(f"/api/runs/{run_id}") for run_id in run_ids},
                past={run_id: await answer(f"/api/runs/{run_id}?at=2100-01-01") for run_id in run_ids},
                is_ready=(await answer("/readyz"))["status"] == "ready",
            )
    except (RunfoldError, sqlite3.DatabaseError):
        return None


def wrong(said: Said | None, true: Said, *, is_view: bool) -> list[str]:
    """What was told that is not so."""
    if said is None:
        return []
    asked = [("events", said.events, true.events), ("past", said.past, true.past)]
    if not is_view:
        asked.append(("snapshot", said.snapshots, true.snapshots))
    found = [
        f"{name} of {run_id}"
        for name, told, known in asked
        for run_id, answer in told.items()
        # What is shown as it was before the alteration says that it is stale.
        if answer is not None and {**answer, **FRESH} != {**known[run_id], **FRESH}
    ]
    return found + [f"stream of {name}" for name, it in said.streamed.items() if not true.streamed[name].startswith(it)]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_each_of_two_hundred_random_tamperings_is_found_and_nothing_wrong_is_served(
    data: Path, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    run_ids = [run_id_of(uuid.uuid5(uuid.NAMESPACE_URL, str(number))) for number in range(RUNS)]
    true = await say(data, run_ids)
    missed: list[str] = []
    served: list[str] = []

    assert true is not None
    assert true.is_ready
    for number in range(TAMPERINGS):
        copy = tmp_path / f"copy {number}"
        shutil.copytree(data, copy)
        tamper = TAMPERS[number % len(TAMPERS)]
        what = tamper(copy, chance)
        served += [f"{what}: {it}" for it in wrong(await say(copy, run_ids), true, is_view=tamper is tamper_view)]
        if not find(copy):
            missed.append(what)
        shutil.rmtree(copy)

    assert missed == [], f"seed {seed}"
    assert served == [], f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    ["at_us = 1 << 60", "recorded_at_us = 1 << 60", "at_us = -1 << 60", "actor = CAST(x'ff' AS TEXT)", "version = -1"],
)
async def test_what_nothing_can_show_is_found_and_refused_as_whatever_was_altered(
    data: Path, tmp_path: Path, change: str
) -> None:
    run_ids = [run_id_of(uuid.uuid5(uuid.NAMESPACE_URL, str(number))) for number in range(RUNS)]
    true, copy = await say(data, run_ids), tmp_path / "copy"
    shutil.copytree(data, copy)
    connection = edit(copy)
    connection.execute(f"UPDATE events SET {change} WHERE position = 9")
    leave(connection)
    (copy / "views.1.db").unlink()

    said = await say(copy, run_ids)
    terminal = [runfold(copy, *words) for words in (["verify"], ["rebuild"], ["audit"], ["ps"])]

    assert true is not None
    assert find(copy)
    assert wrong(said, true, is_view=False) == []
    assert [done.returncode != 0 for done in terminal[:2]] == [True, True]
    assert not any("Traceback" in done.stderr for done in terminal)


def page_of_the_events(data: Path) -> int:
    """The place of the count of cells of the page that the table begins with."""
    connection = sqlite3.connect(data / "log.db")
    root: int = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events'").fetchone()[0]
    size: int = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    return (root - 1) * size + 3


def text_of_the_schema(data: Path) -> int:
    return (data / "log.db").read_bytes().index(b"CREATE TABLE heads") + len(b"CREATE TABLE he")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "bits"), [(page_of_the_events, 0x55), (text_of_the_schema, 0x10), (text_of_the_schema, 0x95)]
)
async def test_a_file_that_sqlite_cannot_read_is_told_as_damaged_and_not_as_a_fault_of_ours(
    data: Path, tmp_path: Path, place: Callable[[Path], int], bits: int
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    content = bytearray((copy / "log.db").read_bytes())
    content[place(copy)] ^= bits
    (copy / "log.db").write_bytes(content)
    run_id = run_id_of(uuid.uuid5(uuid.NAMESPACE_URL, "0"))

    words = (["verify"], ["rebuild"], ["status", run_id], ["ps"], ["audit"], ["run", "--", "true"])
    said = [runfold(copy, *each) for each in words]
    codes: list[str] = []
    with suppress(Damaged):
        async with serving(copy) as served:
            answers = [await served.ask("GET", f"/api/runs/{run_id}/{what}") for what in ("events", "stream")]
            codes += [(await answer.json())["code"] for answer in answers]

    # Beside events that cannot be read a server answers what does not ask for them.
    assert codes == ["damaged"] * (2 if place is page_of_the_events else 0)
    assert [done.returncode != 0 for done in said[:3]] == [True] * 3
    assert all("damaged" in done.stderr for done in said[1:3])
    assert [path.name for path in copy.glob("views.*.db")] == ["views.1.db"]
    assert not any("Traceback" in done.stderr for done in said)


@pytest.mark.slow
def test_a_flipped_bit_of_the_file_is_found_wherever_it_changes_what_is_read(data: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    log = open_reader(data)
    true = [event.data for event in read_page(log).events]
    log.close()
    unnoticed: list[int] = []

    for _ in range(60):
        copy = tmp_path / "copy"
        shutil.copytree(data, copy)
        content = bytearray((copy / "log.db").read_bytes())
        place = chance.randrange(100, len(content))
        content[place] ^= 1 << chance.randrange(8)
        (copy / "log.db").write_bytes(content)
        if not find(copy):
            log = open_reader(copy)
            if [event.data for event in read_page(log).events] != true:
                unnoticed.append(place)
            log.close()
        shutil.rmtree(copy)

    assert unnoticed == [], f"seed {seed}"


async def test_a_damaged_run_is_refused_and_told_and_the_others_go_on(data: Path) -> None:
    tamper_of_one = edit(data)
    damaged, other = (row[0] for row in tamper_of_one.execute("SELECT run_id FROM events WHERE position IN (9, 1)"))
    tamper_of_one.execute("UPDATE events SET actor = 'user:mallory' WHERE run_id = ? AND version = 2", (damaged,))
    leave(tamper_of_one)

    async with serving(data) as served:
        refused = await served.ask("GET", f"/api/runs/{damaged}/events")
        problem = await refused.json()
        written = await served.report(damaged, {"type": "message", "data": {"text": "more"}})
        streams = [await served.ask("GET", path) for path in (f"/api/runs/{damaged}/stream", "/api/stream")]
        others = [await served.ask("GET", f"/api/runs/{other}/{path}") for path in ("events", "history")]
        more = await served.report(other, {"type": "message", "data": {"text": "more"}})
        ready = await (await served.ask("GET", "/readyz")).json()

    assert (refused.status, problem["code"], problem["run_id"]) == (500, "damaged", damaged)
    assert "does not match its hash" in problem["detail"]
    assert "runfold verify" in problem["hint"]
    assert [answer.status for answer in (written, *streams)] == [500, 500, 500]
    assert [answer.status for answer in (*others, more)] == [200, 200, 200]
    assert (ready["status"], ready["damaged"]) == ("degraded", 1)


async def test_a_log_that_was_cut_is_not_opened_and_its_folder_stays_as_it_is(data: Path) -> None:
    tamper_truncate(data, random.Random(3))
    before = (data / "log.db").read_bytes()

    with pytest.raises(Damaged, match="an anchor beside it was made at") as error:
        await SqliteLog.open(data)

    assert "restore a backup" in error.value.hint
    assert (data / "log.db").read_bytes() == before
