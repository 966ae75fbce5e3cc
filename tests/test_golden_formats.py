"""Archives, segments of the second copy and messages of a shared log are for ever as `docs/log-format.md` has them.

What lies in `tests/golden` was written by hand from that page, and not by the code that is tested here.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from eventstore.jetstream import messages
from eventstore.jetstream.messages import Message, subject_of
from eventstore.keeping.archive import open_archive, read_rows, write_archive, zstd
from eventstore.keeping.restoring import restore
from eventstore.keeping.segments import SealedAnchor, Segment, decode_segment, digest_of, encode_segment
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import INSERT_WHOLE, WholeRow
from runfold.errors import LogFailed
from tests.described import described
from tests.ledgers import stored
from tests.tampering import find

GOLDEN = Path(__file__).parent / "golden"
EVENTS = (GOLDEN / "events.jsonl").read_bytes()
MANIFEST = (GOLDEN / "manifest.json").read_bytes()
SEGMENT = (GOLDEN / "segment.json").read_bytes()
MESSAGES = [bytes.fromhex(line) for line in (GOLDEN / "messages.hex").read_text().split()]
RUN, LOG = "r_golden", "0198f0c0-0000-7000-8000-00000000000a"
PICTURE, NOTES = b"the picture", b"some notes\n"
BLOB = f"blobs/{hashlib.sha256(PICTURE).hexdigest()}"
BINARY = ("id", "cause", "command", "sent", "hash", "salt", "digest")


def rows() -> list[WholeRow]:
    """The golden events, read without the code that reads archives."""
    found: list[WholeRow] = []
    for line in EVENTS.splitlines():
        fields = json.loads(line)
        for name in BINARY:
            fields[name] = None if fields[name] is None else bytes.fromhex(fields[name])
        data = line.decode().partition(',"data":')[2].rpartition(',"digest":')[0].encode()
        found.append(WholeRow(**{**fields, "data": None if data == b"null" else data}))
    return found


def sealed(content: bytes, tag: bytes) -> bytes:
    return content + bytes.fromhex("502a4d1830000000") + tag + hashlib.sha256(content).digest()


def unsealed(content: bytes, tag: bytes) -> bytes:
    """What a sealed zstd frame holds."""
    frame = content[:-56]
    assert frame[:4] == bytes.fromhex("28b52ffd")
    assert content == sealed(frame, tag)
    return zstd.decompress(frame)


def archive(members: Iterable[tuple[str, bytes]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return sealed(zstd.compress(packed.getvalue()), b"runfold archive ")


MEMBERS = [("manifest.json", MANIFEST), ("events.jsonl", EVENTS), (BLOB, PICTURE), (f"runs/{RUN}/notes.txt", NOTES)]


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A log that holds the golden events, with the files that they name."""
    data = tmp_path / "data"
    await (await SqliteLog.open(data)).close()
    with closing(sqlite3.connect(data / "log.db")) as connection:
        connection.executemany(INSERT_WHOLE, rows())
        connection.execute("UPDATE head SET log_id = ?, position = 47", (LOG,))
        connection.commit()
    for name, content in ((f"blobs/{BLOB[6:8]}/{BLOB[6:]}", PICTURE), (f"runs/{RUN}/notes.txt", NOTES)):
        (data / name).parent.mkdir(parents=True)
        (data / name).write_bytes(content)
    return data


def test_the_golden_events_are_chained_as_described() -> None:
    previous = b""
    for row in rows():
        assert (row.digest is None) == (row.salt is not None)
        digest = row.digest or hashlib.sha256((row.salt or b"") + (row.data or b"")).digest()
        previous = described(
            "runfold.v1", previous, row.tenant, row.run_id, row.version, row.id, row.type, row.schema, row.at_us,
            row.actor, row.cause, row.command, row.sent, row.correlation, digest,
        )  # fmt: skip
        assert row.hash == previous


def test_an_archive_is_written_as_described(data: Path, tmp_path: Path) -> None:
    write_archive(data, tmp_path / "a.tar.zst", [RUN], now_us=1_700_000_002_000_000)

    content = (tmp_path / "a.tar.zst").read_bytes()
    assert content[4] & 0b100, "no checksum (RFC 8878, 3.1.1.1.1)"
    with tarfile.open(fileobj=io.BytesIO(unsealed(content, b"runfold archive "))) as tar:
        found = [(it.name, it.mode, it.mtime, it.uname, tar.extractfile(it)) for it in tar]
        assert [(*head, file and file.read()) for *head, file in found] == [
            (name, 0o600, 0, "", kept) for name, kept in MEMBERS
        ]


def test_an_archive_written_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.zst"
    path.write_bytes(archive(MEMBERS))

    with open_archive(path) as (manifest, members):
        (events, content), *others = ((name, file.read()) for name, file in members)
        assert [*read_rows(path, io.BytesIO(content), manifest)] == rows()
        assert [(events, content), *others] == MEMBERS[1:]
    restore(path, tmp_path / "there", actor="user:a")
    assert [(it.hash, it.data) for it in stored(tmp_path / "there", RUN)] == [(it.hash, it.data) for it in rows()]
    assert (tmp_path / "there" / f"runs/{RUN}/notes.txt").read_bytes() == NOTES
    assert find(tmp_path / "there") == []


def golden_segment() -> Segment:
    return Segment(
        log_id=LOG, number=7, after=40, upto=48, events=6, previous=bytes(range(32)).hex(),
        digest="b69857d0a73cf87b471c39337e75525f778430d0a50a48b1cc0b2fac8d9903d3", trimmed_to=12, writer="m1",
        made_at_us=1_700_000_003_000_000,
        anchors=(SealedAnchor(position=47, digest="ab" * 32, previous="cd" * 32),),
    )  # fmt: skip


def test_a_segment_is_written_as_described() -> None:
    content = encode_segment(golden_segment(), rows())

    assert unsealed(content, b"runfold segment ") == SEGMENT + EVENTS


def test_the_digest_of_a_segment_is_an_anchor_as_described() -> None:
    previous = bytes(range(32))
    content = b"runfold.anchor.v1" + len(previous).to_bytes(4, "big") + previous
    for row in rows():
        content += row.position.to_bytes(8, "big") + row.recorded_at_us.to_bytes(8, "big") + row.hash

    assert digest_of(previous.hex(), rows()) == golden_segment().digest == hashlib.sha256(content).hexdigest()


def test_a_segment_written_by_hand_is_read() -> None:
    content = sealed(zstd.compress(SEGMENT + EVENTS), b"runfold segment ")

    assert decode_segment(content) == (golden_segment(), rows())


def golden_messages() -> list[Message]:
    """The events as messages: the first three as one append."""
    rests = (2, 1, 0, 0, 0, 0)
    return [
        Message(format=1, rest=rest, **{name: value for name, value in row._asdict().items() if name != "position"})
        for rest, row in zip(rests, rows(), strict=True)
    ]


def test_a_message_is_exactly_the_bytes_described() -> None:
    assert [messages.encode(message) for message in golden_messages()] == MESSAGES


def test_a_message_written_by_hand_is_read() -> None:
    assert [messages.decode(content, 1) for content in MESSAGES] == golden_messages()


def test_a_message_without_its_last_field_is_read_and_one_of_another_format_is_not() -> None:
    whole = golden_messages()[0]
    fields = list(msgspec.msgpack.decode(MESSAGES[0]))

    assert messages.decode(msgspec.msgpack.encode(fields[:-1]), 1) == whole
    with pytest.raises(LogFailed, match="of format 2, known 1"):
        messages.decode(msgspec.msgpack.encode([2, *fields[1:]]), 1)


@pytest.mark.parametrize(
    ("run_id", "subject"),
    [
        ("r_01k-B", "runfold.r_01k-B"),
        ("$runfold", "runfold.-JHJ1bmZvbGQ"),
        ("-a", "runfold.-LWE"),
        ("r.b *>", "runfold.-ci5iICo-"),
        ("ü", "runfold.-w7w"),
    ],
)
def test_the_subject_of_a_run_is_as_described(run_id: str, subject: str) -> None:
    assert subject_of("runfold", run_id) == subject
    assert messages.GAP == "-.gap"
