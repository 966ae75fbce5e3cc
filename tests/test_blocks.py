"""A run's events are found from block to block of the log, wherever in it they stand."""

import ast
import re
from contextlib import closing, suppress
from pathlib import Path

import pytest

from eventstore.blocks import AFTER, BETWEEN, BLOCK_BITS, DELETE_BEFORE, OF_RUN, UPTO, block_of
from eventstore.contract import APPEND_EVENTS_MAX, Appended
from eventstore.framing import Framing
from eventstore.log_file import LOG_FILE, open_reader
from eventstore.places import places_in
from eventstore.preparing import prepare
from eventstore.proof.checking import open_checked
from eventstore.proof.verifying import Proof
from eventstore.reading import position_of, read_page, version_at
from eventstore.splicing import read_found
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import SCHEMA, Writer
from runfold.envelope import NewEvent
from runfold.errors import Damaged
from runfold.ordered_ids import ordered_id

ROOT = Path(__file__).parent.parent
BLOCK = 1 << BLOCK_BITS
TOGETHER = {"r_much": APPEND_EVENTS_MAX, "r_some": 90, "r_seldom": 1, "r_now": 0}
"""How many events each run appends in a round; the last one begins when the others are over."""
ROUNDS = 5
Log = dict[str, list[int]]
"""Where the events of each run stand."""


def events(count: int) -> list[NewEvent]:
    return [
        NewEvent(id=ordered_id(), type="x", data=b"{}", at_us=1, tenant="default", actor="user:t") for _ in range(count)
    ]


def append(writer: Writer, log: Log, run_id: str, count: int) -> None:
    places = log.setdefault(run_id, [])
    (done,) = writer.append([prepare(run_id, events(count), places[-1] if places else 0)])
    assert isinstance(done, Appended)
    places += range(done.first, done.last + 1)


def write_log(data: Path) -> Log:
    log: Log = {}
    with closing(Writer(data, lambda: 1)) as writer:
        for _ in range(ROUNDS):
            for run_id, count in TOGETHER.items():
                if count:
                    append(writer, log, run_id, count)
        append(writer, log, "r_now", 3)
    return log


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    """Nobody changes it."""
    data = tmp_path_factory.mktemp("blocks")
    return data, write_log(data)


def test_the_runs_of_these_tests_lie_in_several_blocks(shared: tuple[Path, Log]) -> None:
    blocks = {run_id: sorted({block_of(it) for it in places}) for run_id, places in shared[1].items()}

    assert blocks == {"r_much": [0, 1, 2], "r_some": [0, 1, 2], "r_seldom": [0, 1, 2], "r_now": [2]}


@pytest.mark.parametrize("run_id", TOGETHER)
def test_every_event_is_found_from_wherever_its_run_is_read(shared: tuple[Path, Log], run_id: str) -> None:
    data, log = shared
    places = log[run_id]
    head = max(max(it) for it in log.values())
    edges = [block << BLOCK_BITS for block in range(1, block_of(head) + 1)]
    some = {0, head, *places[:2], *places[-2:], *(edge + by for edge in edges for by in (-2, -1, 0, 1))}
    with closing(open_reader(data)) as reader:
        for after in some:
            expected = [it for it in places if it > after]
            page = read_page(reader, after=after, stream=run_id, limit=7)
            found, frames = read_found(reader, after=after, framing=Framing(), stream=run_id, rows_max=7)

            assert [it.position for it in page.events] == expected[:7]
            assert (found.columns.positions if found.columns is not None else []) == expected[:7]
            assert sum(it.rows for it in frames) == len(expected[:7])
            assert version_at(reader, run_id, after) == len(places) - len(expected)
            for order in (False, True):
                within = [it for it in places if after <= it <= head - 40]
                rows = [it for (it,) in places_in(reader, run_id, after, head - 40, is_descending=order)]
                assert rows == (within[::-1] if order else within)


@pytest.mark.parametrize("run_id", TOGETHER)
def test_the_place_of_every_version_is_known(shared: tuple[Path, Log], run_id: str) -> None:
    data, log = shared
    with closing(open_reader(data)) as reader:
        found = [position_of(reader, run_id, version) for version in range(len(log[run_id]) + 2)]

    assert found == [None, *log[run_id], None]


def test_of_a_run_that_is_not_there_nothing_is_found(shared: tuple[Path, Log]) -> None:
    with closing(open_reader(shared[0])) as reader:
        assert read_page(reader, stream="r_other").events == ()
        assert (position_of(reader, "r_other", 1), version_at(reader, "r_other", 9)) == (None, 0)


def test_a_log_that_was_closed_and_a_proof_of_it_hold(shared: tuple[Path, Log]) -> None:
    with closing(open_reader(shared[0])) as reader:
        assert list(Proof(reader).faults()) == []


def test_what_is_deleted_of_a_run_leaves_the_blocks_that_still_have_some_of_it(tmp_path: Path) -> None:
    log = write_log(tmp_path)
    upto = log["r_much"][-3]
    with closing(sqlite3.connect(tmp_path / LOG_FILE, isolation_level=None)) as file:
        file.execute("DROP TRIGGER events_remain")
        file.execute(DELETE_BEFORE, ("r_much", upto))
        left = file.execute("SELECT run_id, block FROM run_blocks WHERE block < 2 OR run_id = 'r_much'").fetchall()
        rows = file.execute("SELECT position FROM events WHERE run_id = 'r_much' ORDER BY position").fetchall()

    assert sorted(left) == [
        ("r_much", 2), ("r_seldom", 0), ("r_seldom", 1), ("r_some", 0), ("r_some", 1),
    ]  # fmt: skip
    assert [it for (it,) in rows] == log["r_much"][-3:]


@pytest.mark.parametrize("block", [0, 1, 2])
def test_events_that_their_run_does_not_find_are_told_and_not_passed_over(tmp_path: Path, block: int) -> None:
    log = without_block(tmp_path, "r_some", block)
    first = next(it for it in log["r_some"] if block_of(it) == block)

    with closing(open_reader(tmp_path)) as reader:
        faults = [(it.kind, it.run_id, it.position) for it in Proof(reader).faults()]
    with closing(open_checked(tmp_path)) as reader, pytest.raises(Damaged):
        read_page(reader, stream="r_some", limit=len(log["r_some"]) + 1)

    assert faults == [("event", "r_some", first)]


def without_block(data: Path, run_id: str, block: int) -> Log:
    log = write_log(data)
    with closing(sqlite3.connect(data / LOG_FILE, isolation_level=None)) as file:
        file.execute("DELETE FROM run_blocks WHERE run_id = ? AND block = ?", (run_id, block))
    return log


@pytest.mark.parametrize(("block", "index"), [(0, 30), (1, 150), (2, -2)])
def test_who_reads_a_run_up_to_a_place_is_told_of_events_that_it_does_not_find(
    tmp_path: Path, block: int, index: int
) -> None:
    upto = without_block(tmp_path, "r_some", block)["r_some"][index]

    with closing(open_checked(tmp_path)) as reader, pytest.raises(Damaged):
        read_page(reader, stream="r_some", upto=upto)


def test_who_knows_the_whole_log_is_told_of_events_that_their_run_does_not_find(tmp_path: Path) -> None:
    places = without_block(tmp_path, "r_some", 1)["r_some"]

    with closing(open_checked(tmp_path)) as reader:
        with suppress(Damaged):
            read_found(reader, after=0, framing=Framing(), stream=None, rows_max=places[-1] + 5)
        with pytest.raises(Damaged, match="`r_some`"):
            read_page(reader, stream="r_some", limit=len(places))


@pytest.mark.parametrize("run_id", TOGETHER)
def test_what_is_read_up_to_any_place_is_whole(tmp_path: Path, run_id: str) -> None:
    places = write_log(tmp_path)[run_id]
    with closing(open_checked(tmp_path)) as reader:
        for upto in (1, places[0], places[0] + 1, places[len(places) // 2], places[-1] - 1, places[-1]):
            page = read_page(reader, stream=run_id, upto=upto, limit=len(places) + 1)

            assert [it.position for it in page.events] == [it for it in places if it <= upto]


def read_by_pages(reader: sqlite3.Connection, run_id: str, limit: int) -> None:
    after = 0
    while (page := read_page(reader, stream=run_id, after=after, limit=limit)).events:
        after = page.scanned_to


@pytest.mark.parametrize("place", [-5, 1, 6])
@pytest.mark.parametrize("limit", [1, 9])
def test_an_event_that_was_put_where_who_reads_its_run_does_not_look_is_not_passed_over(
    tmp_path: Path, place: int, limit: int
) -> None:
    """Nothing has sealed where the events stand."""
    log: Log = {}
    writer = Writer(tmp_path, lambda: 1)
    for run_id in ("r_b", "r_a", "r_b", "r_a", "r_a", "r_b"):
        append(writer, log, run_id, 1)
    writer.abandon()
    with closing(sqlite3.connect(tmp_path / LOG_FILE, isolation_level=None)) as file:
        file.execute("DROP TRIGGER events_stay")
        for before, after in ((4, -9), (place, 4), (-9, place)):
            file.execute("UPDATE events SET position = ? WHERE position = ?", (after, before))
        file.execute("DELETE FROM run_blocks")
        file.execute("INSERT INTO run_blocks SELECT DISTINCT run_id, block FROM events")

    with closing(open_checked(tmp_path)) as reader, pytest.raises(Damaged):
        read_by_pages(reader, "r_a", limit)


@pytest.mark.parametrize("is_known", [False, True])
def test_what_was_altered_is_not_served_where_the_versions_of_a_run_are_not_in_the_order_of_the_log(
    tmp_path: Path, *, is_known: bool
) -> None:
    log: Log = {}
    writer = Writer(tmp_path, lambda: 1)
    for run_id in ("r_b", "r_a", "r_b", "r_b", "r_a", "r_b", "r_a"):
        append(writer, log, run_id, 1)
    writer.abandon()  # Nothing has sealed where they stand.
    with closing(sqlite3.connect(tmp_path / LOG_FILE, isolation_level=None)) as file:
        file.execute("DROP TRIGGER events_stay")
        file.execute("UPDATE events SET data = ? WHERE position = 5", (b'{"a":1}',))
        for before, after in ((2, -1), (5, 2), (-1, 5)):
            file.execute("UPDATE events SET position = ? WHERE position = ?", (after, before))

    with closing(open_checked(tmp_path)) as reader:
        if is_known:
            read_page(reader, after=4)
        with pytest.raises(Damaged):
            read_page(reader, stream="r_a")
        with pytest.raises(Damaged):
            read_found(reader, after=0, framing=Framing(), stream="r_a", rows_max=9)


@pytest.mark.parametrize("block", [-1, 1, 3, 2**40])
def test_a_block_that_a_run_is_said_to_be_in_and_is_not_is_told(tmp_path: Path, block: int) -> None:
    write_log(tmp_path)
    with closing(sqlite3.connect(tmp_path / LOG_FILE, isolation_level=None)) as file:
        file.execute("INSERT INTO run_blocks VALUES ('r_now', ?)", (block,))

    with closing(open_reader(tmp_path)) as reader:
        assert [it.message for it in Proof(reader).faults()] == [f"block {block} of the log has no events of `r_now`"]
        assert [it.version for it in read_page(reader, stream="r_now").events] == [1, 2, 3]


def test_two_events_of_one_run_and_version_are_refused_by_the_file_itself(tmp_path: Path) -> None:
    write_log(tmp_path)
    with closing(sqlite3.connect(tmp_path / LOG_FILE, isolation_level=None)) as file:
        columns = "version, type, schema, at_us, recorded_at_us, tenant, actor, correlation, salt, data, hash"
        with pytest.raises(sqlite3.IntegrityError, match="version"):
            file.execute(
                f"INSERT INTO events (position, run_id, id, {columns}) SELECT max(position) + 1, run_id, ?, {columns}"
                " FROM events WHERE run_id = 'r_now' GROUP BY run_id",
                (bytes(16),),
            )


@pytest.mark.parametrize(
    "condition",
    [
        "run_id = ?1 ORDER BY block, version",
        f"{AFTER} ORDER BY block, version LIMIT 9",
        f"{BETWEEN} ORDER BY block, version LIMIT 9",
        f"{BETWEEN} ORDER BY block DESC, version DESC LIMIT 9",
        f"{UPTO} ORDER BY block DESC, version DESC LIMIT 1",
        f"{UPTO} AND version = ?3 ORDER BY block DESC LIMIT 1",
        "run_id = ?1 AND version = ?2",
    ],
)
def test_only_what_is_the_runs_is_looked_at_and_nothing_is_sorted(condition: str) -> None:
    values = "abc"[: max(int(it) for it in re.findall(r"\?(\d)", condition))]
    with closing(sqlite3.connect(":memory:")) as file:
        file.executescript(SCHEMA.read_text("utf-8"))
        query = f"EXPLAIN QUERY PLAN SELECT position, data FROM {OF_RUN} WHERE {condition}"
        plan = [row[3] for row in file.execute(query, [*values]).fetchall()]

    assert [step.split(" (")[0] for step in plan] == [
        "SEARCH run_blocks USING PRIMARY KEY",
        "SEARCH events USING INDEX events_by_block",
    ]
    assert "(block=? AND run_id=?" in plan[1]


def test_nobody_asks_for_a_run_but_by_its_blocks_or_by_a_key() -> None:
    packages = ("eventstore", "projections", "runner", "api", "cli")
    found: list[str] = []
    for path in sorted(path for package in packages for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if re.search(r"FROM events( \w)? WHERE (\w\.)?run_id = ", text) and path.name != "identified.py":
                found.append(f"{path.name}: {text}")

    assert found == []
