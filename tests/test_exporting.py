"""Every list is taken away as JSON lines, CSV and Parquet, alike from the terminal and over HTTP."""

import csv
import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from projections.exporting import FORMATS, MEDIA_TYPES, export_of, export_rows
from projections.sql import Questions
from runfold.commands import Observe
from runfold.events import TokenUsage
from runfold.snapshot import Snapshot
from tests.ledgers import act, opened, say
from tests.served import ADMIN, OTHER, VIEWER, Served, serving
from tests.terminal import first_line, read, record, runfold, started

arrow: Any = pytest.importorskip("pyarrow.parquet")
TABLES = {
    "audit": ["audit"],
    "counts": ["audit", "--by", "type"],
    "ps": ["ps"],
    "costs": ["costs", "--by", "run"],
    "sql": ["sql", "SELECT position, type, data, length(data) / 2.0 AS half FROM events ORDER BY position"],
}
OVER_HTTP = {"audit": "/api/audit", "counts": "/api/audit/counts", "ps": "/api/runs", "costs": "/api/costs?by=run"}


def flat(item: dict[str, Any], path: str = "") -> dict[str, Any]:
    """A row as a table has it, where each object of the answer is one of known fields."""
    found: dict[str, Any] = {}
    for name, value in item.items():
        found |= (
            flat(cast("dict[str, Any]", value), f"{path}{name}.") if isinstance(value, dict) else {path + name: value}
        )
    return found


def of_table(rows: list[dict[str, Any]], columns: list[str]) -> list[dict[str, Any]]:
    """Those columns of JSON rows, as CSV writes them."""

    def cell(value: Any) -> str:
        if isinstance(value, str):
            return f"'{value}" if value.startswith("=") else value
        return "" if value is None else json.dumps(value)

    return [{name: cell(flat(row).get(name)) for name in columns} for row in rows]


def assert_is_alike(items: list[dict[str, Any]], pieces: dict[str, bytes], columns: list[str]) -> None:
    """All forms say what the API says, in its order."""
    assert [json.loads(line) for line in pieces["jsonl"].splitlines()] == items
    rows = list(csv.DictReader(io.StringIO(pieces["csv"].decode(), newline="")))
    assert [{name: row[name] for name in columns} for row in rows] == of_table(items, columns)
    table = arrow.read_table(io.BytesIO(pieces["parquet"]))
    assert table.column_names == list(rows[0])
    assert [{name: row[name] for name in columns} for row in table.to_pylist()] == [
        {name: flat(item).get(name) for name in columns} for item in items
    ]


COLUMNS = {
    "audit": ["position", "run_id", "class", "cause", "text"],
    "counts": ["key", "count"],
    "ps": ["id", "status", "stats.turns", "stats.tokens.total", "stats.cost_usd", "duration_ms", "lineage.retry_of"],
    "costs": ["key", "input_tokens", "cost_usd"],
    "sql": ["position", "type", "data", "half"],
}


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """Several runs, one with usage."""
    data = tmp_path / "data"
    async with opened(data) as ledger:
        await act(ledger, say("=1+1", "plain"))
        await act(ledger, Observe(events=(TokenUsage(model="m", input_tokens=5, cost_micros=7_000_000),)))
    return data


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
async def test_every_list_is_taken_away_in_every_format_from_the_terminal(
    data: Path, tmp_path: Path, name: str
) -> None:
    record(data)
    items = read(data, *TABLES[name])["items"]

    pieces: dict[str, bytes] = {}
    for form in FORMATS:
        path = tmp_path / f"out.{form}"
        # The ending of the file says the format, or it is said.
        done = runfold(data, *TABLES[name], "-o", str(path), *(["--format", form] if form != "csv" else []))
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        pieces[form] = path.read_bytes()
    printed = runfold(data, *TABLES[name], "--format", "csv")

    assert items
    assert_is_alike(items, pieces, COLUMNS[name])
    assert printed.stdout.splitlines() == pieces["csv"].decode().splitlines()


@pytest.mark.parametrize("name", OVER_HTTP)
async def test_every_list_is_taken_away_in_every_format_over_http(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path) as served:
        await fill(served, 3)
        items = (await (await served.ask("GET", OVER_HTTP[name], token=VIEWER)).json())["items"]
        pieces: dict[str, bytes] = {}
        for form, media_type in MEDIA_TYPES.items():
            by_header = await served.ask("GET", OVER_HTTP[name], token=VIEWER, headers={"Accept": media_type})
            sign = "&" if "?" in OVER_HTTP[name] else "?"
            by_query = await served.ask("GET", f"{OVER_HTTP[name]}{sign}format={form}", token=VIEWER)
            pieces[form] = await by_query.read()
            assert (by_query.status, by_query.content_type) == (200, media_type)
            assert by_query.headers["Content-Disposition"].endswith(f'.{form}"')
            assert by_query.headers["Runfold-Position"] == str((await served.log.bounds()).last)
            if form != "parquet":
                assert await by_header.read() == pieces[form]

    assert len(items) > 1
    assert_is_alike(items, pieces, COLUMNS[name])


async def test_a_file_holds_all_that_matches_page_by_page_and_no_more_than_asked_for(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        runs = await fill(served, 230)
        whole = await served.ask("GET", "/api/runs?format=jsonl", token=VIEWER)
        some = await served.ask("GET", "/api/runs?format=jsonl&limit=7&order=asc", token=VIEWER)
        events = await served.ask("GET", "/api/audit?format=jsonl&type=run_started", token=VIEWER)
        foreign = await served.ask("GET", "/api/audit?format=jsonl", token=OTHER)
        listed = [json.loads(line)["id"] for line in (await whole.text()).splitlines()]
        first = [json.loads(line)["id"] for line in (await some.text()).splitlines()]
        started_runs = [json.loads(line)["run_id"] for line in (await events.text()).splitlines()]

        assert listed == runs[::-1]
        assert first == runs[:7]
        assert started_runs == runs[::-1]
        assert await foreign.text() == ""


async def test_the_audit_of_all_tenants_or_of_one_is_for_an_admin_of_all(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        mine = await served.open_run(title="mine")
        theirs = await served.open_run(token=OTHER, title="theirs")
        everything = await (await served.ask("GET", "/api/admin/audit?type=run_queued", token=ADMIN)).json()
        one = await (await served.ask("GET", "/api/admin/audit?tenant=other&format=csv", token=ADMIN)).text()
        counts = await (await served.ask("GET", "/api/admin/audit/counts?by=tenant", token=ADMIN)).json()
        refused = await served.ask("GET", "/api/admin/audit", token=VIEWER)

    assert [item["run_id"] for item in everything["items"]] == [theirs, mine]
    assert {row["run_id"] for row in csv.DictReader(io.StringIO(one))} == {theirs}
    assert {item["key"] for item in counts["items"]} >= {"default", "other"}
    assert refused.status == 403


async def fill(served: Served, count: int) -> list[str]:
    runs = [await served.open_run(title=f"run {number}") for number in range(count)]
    usage = {"type": "token_usage", "data": {"model": "m", "input_tokens": 5, "output_tokens": 2}}
    for run_id in runs[:2]:
        assert (await served.report(run_id, usage)).status == 200
    return runs


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_is_taken_for_a_formula_by_a_spreadsheet_and_every_number_stays_one(text: str) -> None:
    rows = [(text, -5, 'a,b\n"c"', None, b"\x00\xff".hex())]

    (header, *_), row = list(csv.reader(io.StringIO(b"".join(export_rows("abcde", rows, "csv")).decode(), newline="")))

    assert header == "a"
    assert row == [f"'{text}", "-5", 'a,b\n"c"', "", "00ff"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_list_with_nothing_in_it_is_a_file_with_nothing_but_its_columns(form: Any) -> None:
    export = export_of(Snapshot, form)

    content = export.add([]) + export.end()

    if form == "parquet":
        table = arrow.read_table(io.BytesIO(content))
        assert (table.num_rows, str(table.schema.field("stats.tokens.total").type)) == (0, "int64")
    else:
        assert content.decode().splitlines()[1:] == []
        assert form == "jsonl" or content.startswith(b"id,tenant,workflow,title,status")


async def test_columns_of_one_name_are_told_apart(data: Path) -> None:
    questions = Questions(data)

    columns, rows, _ = questions.ask("SELECT 1 AS a, 2 AS a, 3 AS a")
    questions.close()

    assert b"".join(export_rows(columns, rows, "csv")) == b"a,a:1,a:2\r\n1,2,3\r\n"


def test_what_is_missing_for_parquet_is_said_with_how_to_install_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(Exception, match="needs the package pyarrow") as error:
        export_of(Snapshot, "parquet")

    assert "pip install 'runfold[parquet]'" in str(getattr(error.value, "hint", ""))
    assert importlib.import_module("projections.exporting").export_of(Snapshot, "csv").end()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["ps", "--json", "--format", "csv"], "two forms of one answer"),
        (["audit", "-o", "rows.txt"], "does not say its format"),
        (["ps", "-o", "nowhere/rows.csv"], "error: `nowhere/rows.csv` cannot be written: no such file or directory\n"),
    ],
)
def test_a_form_that_cannot_be_is_refused_and_leaves_no_file(tmp_path: Path, words: list[str], why: str) -> None:
    record(tmp_path / "data")

    done = runfold(tmp_path / "data", *words)

    assert done.returncode in (1, 2)
    assert why in done.stderr
    assert "\n\nhint: " in done.stderr
    assert not list(tmp_path.rglob("*rows*"))


@pytest.mark.slow
def test_a_list_is_taken_away_through_a_server_as_from_the_folder(tmp_path: Path) -> None:
    record(tmp_path)
    with started(tmp_path, "up", "--port", "0") as server:
        url = first_line(server).partition("/login")[0]
        away: dict[str, Any] = {"RUNFOLD_URL": url, "RUNFOLD_TOKEN": (tmp_path / "token").read_text().strip()}

        for words in (["audit", "--tenant", "default"], ["ps"], ["costs"], ["audit", "--by", "actor"]):
            here = runfold(tmp_path, *words, "--format", "jsonl")
            there = runfold(tmp_path, *words, "--format", "jsonl", **away)
            assert (there.returncode, there.stdout) == (0, here.stdout), there.stderr
        other = runfold(tmp_path, "audit", "--tenant", "other", "--format", "jsonl", **away)
        other_here = runfold(tmp_path, "audit", "--tenant", "other", "--format", "jsonl")

    assert (other.returncode, other.stdout, other_here.stdout) == (0, "", "")
