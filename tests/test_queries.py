"""No query without a limit: each asks for one row, for a sum, for a page, or is listed here with what bounds it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("eventstore", "projections", "runner", "api", "cli")
_SELECT = re.compile(r"\bSELECT\b.*\bFROM\b", re.S)
_BOUNDED = re.compile(r"\bLIMIT\b|^\s*SELECT\s+(COALESCE\()?(count|sum|min|max|total)\(|\bSELECT 1 FROM sqlite_", re.I)
BOUNDED_OTHERWISE = {
    "INSERT INTO main.events ({})": "one batch of a backup, inside the database",
    "INSERT INTO main.anchors SELECT * FROM live.anchors": "a backup, inside the database",
    "FROM events_before": "a log that is brought forward, inside the database",
    "INSERT INTO run_blocks SELECT DISTINCT": "a log that is brought forward, inside the database",
    "INTO main.heads SELECT": "a backup, inside the database",
    "hash FROM events WHERE position > ? AND position <= ?": "what one anchor seals, read row by row",
    "hash FROM events WHERE position > ? ORDER BY position": "what one group of appends adds",
    "hash FROM heads WHERE run_id IN ({})": "the runs of one group of appends",
    "(run_id, id) IN (VALUES {})": "the ids of one group of appends",
    "FROM events WHERE run_id = ? AND {} IN ({})": "as many ids as an append may have",
    "FROM heads h JOIN events e ON e.position = h.position WHERE h.run_id = ?": "by primary key",
    "SELECT * FROM leases WHERE host": "the runs that this machine drives now",
    "SELECT EXISTS (SELECT 1 FROM {} WHERE run_id = ?1": "one row",
    "data FROM {} WHERE run_id = ? AND type = 'event_redacted'": "what was redacted of one run",
    "EXISTS (SELECT 1 FROM run_blocks AS known": "one row",
    "position IN (SELECT value FROM json_each(?))": "the positions of one page",
    "CAST(group_concat(hash, '') AS BLOB) FROM events WHERE": "one row, of what one anchor seals",
    "SELECT * FROM leases ORDER BY run_id": "the runs that are driven now",
    "AND type IN ({}) GROUP BY run_id ORDER BY max(position)": "the runs of one stretch of the log",
    "SELECT version, position, hash FROM {} WHERE run_id = ?": "one run that is restored whole",
    "SELECT run_id, max(position) FROM events": "a row for each run that moved since the last look",
    "SELECT position, digest, previous FROM anchors WHERE position <= ?": "one for a thousand events, in a proof",
    "FROM sqlite_schema": "our own tables",
    "SELECT run_id, position, version, hash FROM heads": "a row a run, as the proof itself remembers of each",
    "FROM artifacts a WHERE run_id": "part of queries that have one",
    "FROM audit WHERE run = ? AND kind IN": "the rows of one run, which are taken out",
    "DELETE FROM events WHERE position IN": "one run, which is taken out",
    "DELETE FROM audit_": "the names of one run, which are taken out",
    "a.run = (SELECT name_id FROM audit_runs": "part of queries that have one",
    "a.run IN (SELECT name_id FROM audit_runs": "part of queries that have one",
    "SELECT kind FROM audit_kinds WHERE {}": "few for many events: whose, what, by whom",
    "SELECT block FROM audit_blocks WHERE kind = ?": "one for 256 events at most, read as far as a page needs",
    "SELECT position FROM {} WHERE {} ORDER BY block {}, version {}": "one run, read as far as a page needs",
    "SELECT position FROM audit_about WHERE run": "one run, read as far as a page needs",
    "a.path IN (SELECT name_id FROM audit_paths": "part of queries that have one",
    "error FROM checkpoints": "one row a view",
    "SELECT body, position FROM history_runs WHERE run_id = ?": "by primary key",
    "SELECT fingerprint FROM {}.checkpoints": "by primary key",
    ".checkpoints SELECT * FROM {}.checkpoints": "by primary key, from one file to another",
    "WHERE view = ?": "by primary key",
    "INSERT INTO main.{} SELECT * FROM {}.{}": "the view that is copied, inside the database",
    "SELECT status, sum(runs) AS found FROM run_counts": "one row a status",
    "SELECT status, count(*) AS found FROM runs": "one row a status",
    "SELECT status, count(*) FROM runs": "one row a status",
    "FROM json_each(labels)": "the labels of one run, which are bounded",
    "SELECT body, position FROM runs WHERE run_id = ?": "by primary key",
    "SELECT body FROM runs WHERE status NOT IN": "the runs that are at work now",
    "FROM main.events": "a view of `runfold sql`, which ends after its rows and its time",
    "FROM folded.": "a view of `runfold sql`, which ends after its rows and its time",
    "SELECT name, sum(value) FROM stats": "one row an outcome",
    "SELECT hour / 24, name, sum(value) FROM stats": "the days of a period, which is bounded",
    "FROM spans WHERE run_id = ? AND ended_at_us IS NULL": "what is open in one run",
    "SELECT EXISTS (SELECT 1 FROM {}.events WHERE position > ?": "one row",
    "SELECT EXISTS (SELECT 1 FROM events WHERE position > ? AND position <= ?": "one row",
    "FROM anchors WHERE position > ? AND position <= ?": "the anchors of one segment",
    "'$.counts.closed'), 0) FROM events WHERE position = ?": "by primary key",
    "SELECT 1 FROM heads WHERE run_id = ? AND position = ?": "by primary key",
    "first.position = ? AND last.position = ?": "two events by primary key",
    "FROM temp.replaced r CROSS JOIN events e USING (position)": "what one answer of the cluster has replaced",
    "FROM temp.replaced WHERE position > ? AND position < ?": "what one answer of the cluster has replaced",
    "hash FROM heads WHERE position > ? AND position <= ?": "one window of a log that moves",
    "SELECT {} FROM events WHERE position = ?": "by primary key",
    "SELECT type, data FROM {} WHERE run_id = ? AND data IS NOT NULL": "one run, read row by row",
    "SELECT version, position FROM heads WHERE run_id = ?": "by primary key",
    "SELECT position FROM events WHERE data IS NOT NULL AND instr": "read row by row, until one is found",
    "SELECT {} FROM events WHERE position > ? AND position <= ?": "a segment of a copy, or a window of one that moves",
}
"""Part of a query without a limit, and what bounds it."""


def queries(path: Path) -> Iterator[tuple[str, bool]]:
    """Every text of a file that selects, and whether one row is taken of what it finds."""
    tree = ast.parse(path.read_text("utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not _is_part(node, parents):
            text = node.value
        else:
            continue
        if _SELECT.search(text):
            yield " ".join(text.split()), _takes_one(node, parents)


def _is_part(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Of a longer text, or a docstring."""
    return isinstance(parents.get(node), ast.JoinedStr | ast.Expr)


def _takes_one(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    while (parent := parents.get(node)) is not None and not isinstance(parent, ast.stmt):
        if isinstance(parent, ast.Attribute) and parent.attr == "fetchone":
            return True
        node = parent
    return False


def unbounded(path: Path) -> list[str]:
    return [text for text, takes_one in queries(path) if not takes_one and not _BOUNDED.search(text)]


FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_query_has_a_limit_or_a_reason_to_have_none(path: Path) -> None:
    found = [text for text in unbounded(path) if not any(known in text for known in BOUNDED_OTHERWISE)]

    assert found == []


def test_no_reason_is_left_of_a_query_that_is_gone() -> None:
    every = [text for path in FILES for text in unbounded(path)]

    assert [known for known in BOUNDED_OTHERWISE if not any(known in text for text in every)] == []
