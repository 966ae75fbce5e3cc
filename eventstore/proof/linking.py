"""Whether events read by columns are those that were appended: each matches its hash and the one before it."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from eventstore.blocks import BLOCK_BITS, IS_FOUND, OF_RUN, UPTO, block_of
from eventstore.chain import Shared, all_anchored, data_digest, data_digests, digest_of_anchored, links, shared
from eventstore.columns import HASH_BYTES, ID_BYTES, Columns, Common, OfCommons, anchored_between, cut, cut_even
from eventstore.sqlite3_module import sqlite3
from runfold.events import EventRedacted

_REDACTED = (
    "SELECT position, digest, data FROM events"
    " WHERE position IN (SELECT value FROM json_each(?)) AND digest IS NOT NULL"
)
_FOUND = (
    f"SELECT count(*) FROM {OF_RUN} WHERE run_id IN (SELECT value FROM json_each(?1)) AND block = ?2"  # noqa: S608
    " AND +position BETWEEN ?3 AND ?4"
)
_LOST = (
    "SELECT position, run_id FROM events WHERE position IN (SELECT value FROM json_each(?))"  # noqa: S608
    f" AND NOT {IS_FOUND} LIMIT 1"
)


class Wrong(NamedTuple):
    run_id: str
    message: str


class _Linked(NamedTuple):
    run_id: str
    sent_bytes: int
    shared: Shared


def unsound(connection: sqlite3.Connection, columns: Columns) -> Iterator[Wrong]:
    """Events that are not what was appended, and what is wrong with them; they come with their salts.

    Raises `columns.OF_ANOTHER_KIND`.
    """
    linked = OfCommons(_linked)
    run_ids, sent_sizes, commons = zip(*map(linked.__getitem__, columns.commons), strict=True)
    hashes = cut_even(columns.hashes, HASH_BYTES)
    befores = _before(connection, columns.positions, run_ids, columns.versions, hashes)
    redacted = _redacted(connection, columns)
    found = links(
        [before or b"" for before in befores],
        commons,
        versions=columns.versions,
        ids=cut_even(columns.ids, ID_BYTES),
        sents=cut(columns.sents, sent_sizes, HASH_BYTES),
        digests=_digests(columns, redacted),
    )
    yield from _lost(connection, columns.positions, run_ids)
    if b"".join(found) == columns.hashes and None not in befores and not redacted:
        return
    for position, run_id, version, before, event_hash, expected in zip(
        columns.positions, run_ids, columns.versions, befores, hashes, found, strict=True
    ):
        if before is None:
            yield Wrong(run_id, f"version {version - 1} of `{run_id}` is missing before event {position}")
        elif event_hash != expected:
            yield Wrong(run_id, f"event {position}, version {version} of `{run_id}`, does not match its hash")
        elif not _is_left(connection, run_id, version, redacted.get(position, (b"", None))[1]):
            yield Wrong(run_id, f"event {position} of `{run_id}` is not what its redaction left of it")


def anchor_of(connection: sqlite3.Connection, previous: bytes, after: int, upto: int) -> bytes:
    """The digest that an anchor at `upto` has. Raises `columns.OF_ANOTHER_KIND`."""
    return digest_of_anchored(previous, all_anchored(*anchored_between(connection, after, upto)))


def _lost(connection: sqlite3.Connection, positions: Sequence[int], run_ids: Sequence[str]) -> Iterator[Wrong]:
    """Events that whoever reads their run does not come to."""
    start = 0
    while start < len(positions):
        block = block_of(positions[start])
        end = bisect_left(positions, (block + 1) << BLOCK_BITS, start)
        asked = _json([*set(run_ids[start:end])])
        # To ask for each event takes ten times as long: mostly as many are found between the first and the last.
        found = connection.execute(_FOUND, (asked, block, positions[start], positions[end - 1])).fetchone()[0]
        if found != end - start:
            for position, run_id in connection.execute(_LOST, (_json(positions[start:end]),)).fetchall():
                yield Wrong(run_id, f"event {position} of `{run_id}` is not found by its run")
        start = end


def _json(values: Sequence[int | str]) -> str:
    return msgspec.json.encode(values).decode()


def _linked(common: Common) -> _Linked:
    parts = shared(
        tenant=common.tenant,
        run_id=common.run_id,
        type_name=common.type,
        schema=common.schema,
        at_us=common.at_us,
        actor=common.actor,
        cause=bytes.fromhex(common.cause) or None,
        command=bytes.fromhex(common.command) or None,
        sent_bytes=common.sent_bytes,
        correlation=common.correlation,
    )
    return _Linked(common.run_id, common.sent_bytes or 0, parts)


def _digests(columns: Columns, redacted: dict[int, tuple[bytes, bytes | None]]) -> list[bytes]:
    """Of the data of each event, or as it is kept where the event is redacted."""
    assert columns.salts is not None  # noqa: S101
    salts = cut_even(columns.salts, ID_BYTES)
    if len(salts) + len(redacted) != len(columns.datas):
        raise ValueError("a salt is missing")
    if not redacted:
        return data_digests(salts, columns.datas)
    each = iter(salts)
    return [
        redacted[position][0] if position in redacted else data_digest(next(each), data)
        for position, data in zip(columns.positions, columns.datas, strict=True)
    ]


def _before(
    connection: sqlite3.Connection,
    positions: Sequence[int],
    run_ids: Sequence[str],
    versions: Sequence[int],
    hashes: Sequence[bytes],
) -> list[bytes | None]:
    """The hash before each event, empty before a run's first; None where that is missing."""
    run_id, version, count = run_ids[0], versions[0], len(versions)
    if run_ids.count(run_id) == count and versions == [*range(version, version + count)]:
        return [b"" if version == 1 else _hash_before(connection, run_id, version, positions[0]), *hashes[:-1]]
    last: dict[str, tuple[int, bytes]] = {}
    found: list[bytes | None] = []
    for position, run_id, version, event_hash in zip(positions, run_ids, versions, hashes, strict=True):
        before = last.get(run_id)
        if version == 1:
            found.append(b"")
        elif before is not None and before[0] == version - 1:
            found.append(before[1])
        else:
            found.append(_hash_before(connection, run_id, version, position))
        last[run_id] = (version, event_hash)
    return found


def _hash_before(connection: sqlite3.Connection, run_id: str, version: int, position: int) -> bytes | None:
    """The hash of the run's last event before a position; None where that is not the one before this version."""
    query = f"SELECT version, hash FROM {OF_RUN} WHERE {UPTO} ORDER BY block DESC, version DESC LIMIT 1"  # noqa: S608
    row = connection.execute(query, (run_id, position - 1)).fetchone()
    return None if row is None or row[0] != version - 1 else bytes(row[1])


def _redacted(connection: sqlite3.Connection, columns: Columns) -> dict[int, tuple[bytes, bytes | None]]:
    """What the data of redacted events was, as its digest, and what is left of it, by position."""
    if not columns.redacted:
        return {}
    rows = connection.execute(_REDACTED, (_json(columns.positions),)).fetchall()
    return {position: (digest, data) for position, digest, data in rows}


def _is_left(connection: sqlite3.Connection, run_id: str, version: int, data: bytes | None) -> bool:
    """Whether a redaction of the run says that this is what it left of the event, where anything is left."""
    if data is None:
        return True
    query = f"SELECT data FROM {OF_RUN} WHERE run_id = ? AND type = 'event_redacted' AND data IS NOT NULL"  # noqa: S608
    told: dict[int, str] = {}
    for row in connection.execute(query, (run_id,)):
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            redacted = msgspec.json.decode(row[0], type=EventRedacted)
            told[redacted.version] = redacted.digests.get("data", "")
    return told.get(version) == hashlib.sha256(data).hexdigest()
