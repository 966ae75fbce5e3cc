"""Taking a text out of a run for good: its events, its files and its blobs; the chain of its hashes stays whole.

Of an event that said more than the text, the rest stays, so that a run whose command held a password still has one.
What the event was is no longer known to anybody: its salt is gone, and its digest alone cannot be guessed from.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec

from eventstore.chain import data_digest
from eventstore.durable import write_durably
from eventstore.failpoints import reach
from eventstore.intents import Intent, announce
from eventstore.objects import blobs
from eventstore.proof.attachments import blobs_of
from eventstore.reading import read_page
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import Rewriting, Writer
from runfold.envelope import SYSTEM_STREAM, NewEvent, Recorded
from runfold.errors import BadRequest, InvalidEvent, NotAllowed, NotFound
from runfold.events import EventRedacted, decode_stored, encode_data, event_class
from runfold.evolve import fold
from runfold.ordered_ids import ordered_id
from runfold.redact import REDACTED, Redactor, with_texts
from runfold.state import new_run

TEXT_CHARACTERS_MIN = 4  # A shorter one is part of half the words.
READY = ".redacted"
_TURN_ENDS = frozenset({"turn_completed", "turn_failed", "turn_cancelled"})
_NEEDLESS = frozenset({"note_added", "telemetry_rejected"})


class Redacted(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken out. `is_gone`: the log's file holds the text no more, in none of its pages."""

    run_id: str
    texts: int
    events: int
    files: int
    blobs: int
    still_named: tuple[str, ...] = ()
    """Blobs with the text that other runs name too."""
    is_gone: bool = True


def redact(
    data: Path,
    run_id: str,
    *,
    texts: Sequence[str] = (),
    positions: Sequence[int] = (),
    by_form: bool = False,
    reason: str = "",
    actor: str,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
) -> Redacted:
    """Take texts, whole events, or whatever has the form of a secret, out of a run that has no turn open.

    Raises NotFound, NotAllowed, BadRequest; nothing was changed then.
    """
    check_texts(texts)
    writer = Writer(data, now_us)
    try:
        with writer.rewriting("redact") as rewriting:
            work = Redaction(data, run_id, rewriting.connection)
            work.look(texts, positions, by_form=by_form)
            work.store(rewriting, reason=reason, actor=actor)
        is_gone = writer.forget(work.gone)
        return work.redacted(is_gone=is_gone)
    finally:
        writer.close()


def check_texts(texts: Sequence[str]) -> None:
    """Raises BadRequest for one that is too short to be a secret."""
    for text in texts:
        if len(text) < TEXT_CHARACTERS_MIN:
            raise BadRequest(
                f"a text to redact has at least {TEXT_CHARACTERS_MIN} characters", hint="give the whole secret"
            )


class Redaction:
    """What is to be taken out of a run, found and then carried out."""

    def __init__(self, data: Path, run_id: str, connection: sqlite3.Connection) -> None:
        self._data = data
        self._run_id = run_id
        self._connection = connection
        self._folder = data / "runs" / run_id
        self._events: list[Recorded] = []
        self._texts: tuple[str, ...] = ()
        self._left: dict[int, bytes | None] = {}
        """Position → what stays of the event's data."""
        self._ready: dict[Path, bytes] = {}
        self._blobs: dict[str, str] = {}
        """Blob with the text → the one without it."""
        self._named: tuple[str, ...] = ()
        self.gone: list[bytes] = []

    def look(self, texts: Sequence[str], positions: Sequence[int], *, by_form: bool) -> None:
        """Find what is to be changed, and change nothing yet."""
        self._read()
        if by_form:
            texts = [*texts, *self._secrets()]
        self._texts = tuple(sorted(set(texts), key=lambda text: (-len(text), text)))
        self.gone = [form for text in self._texts for form in forms(text)]
        regions = self._blank(positions)
        for recorded in self._events:
            if recorded.data is not None and recorded.position not in self._left:
                left = self._without(recorded.type, recorded.data)
                if left != recorded.data:
                    self._left[recorded.position] = self._checked(recorded, left)
        self._look_into_files(regions)

    def store(self, rewriting: Rewriting, *, reason: str, actor: str) -> None:
        """Change the events and announce what follows for the files."""
        news = self.news(reason=reason, actor=actor, now_us=rewriting.now_us)
        if not news:
            return
        for recorded, left in self.changed:
            self._connection.execute(
                "UPDATE events SET data = ?, salt = NULL, digest = coalesce(digest, ?) WHERE position = ?",
                (left, digest_of(recorded), recorded.position),
            )
        rewriting.append(self._run_id, news)
        renames: list[tuple[str, str]] = []
        for path, content in self._ready.items():
            ready = path.with_name(path.name + READY)
            write_durably(ready, content)
            renames.append((str(ready.relative_to(self._data)), str(path.relative_to(self._data))))
        removals = tuple(f"blobs/{sha256[:2]}/{sha256}" for sha256 in self.lonely())
        if renames or removals:
            intent = Intent(run_id=self._run_id, event_id=news[0].id, renames=tuple(renames), removals=removals)
            announce(self._data, intent)

    @property
    def changed(self) -> list[tuple[Recorded, bytes | None]]:
        """Events of which something goes, and what is left of their data."""
        return [(each, self._left[each.position]) for each in self._events if each.position in self._left]

    @property
    def last(self) -> Recorded:
        return self._events[-1]

    @property
    def files(self) -> dict[Path, bytes]:
        """Files of the run of which something goes, and what is left of them."""
        return self._ready

    def news(self, *, reason: str, actor: str, now_us: int) -> list[NewEvent]:
        """The events that say so; none where nothing is to be taken out."""
        if not self.changed and not self._ready:
            return []
        # Where only a file held it, the last event bears witness: nothing of it is changed.
        witnesses = self.changed or [(self.last, self.last.data)]
        return [_told(recorded, left, reason, actor, now_us) for recorded, left in witnesses]

    def lonely(self) -> tuple[str, ...]:
        """Blobs with the text that no event names once this is done; the others are told of."""
        lonely = tuple(sha256 for sha256 in self._blobs if not self._is_named(sha256))
        self._named = tuple(sha256 for sha256 in self._blobs if sha256 not in lonely)
        return lonely

    def redacted(self, *, is_gone: bool) -> Redacted:
        return Redacted(
            run_id=self._run_id,
            texts=len(self._texts),
            events=len(self._left),
            files=len(self._ready),
            blobs=len(self._blobs),
            still_named=self._named,
            is_gone=is_gone,
        )

    def _read(self) -> None:
        run = new_run(self._run_id)
        while page := read_page(
            self._connection, after=self._events[-1].position if self._events else 0, stream=self._run_id
        ).events:
            run = fold(run, page)
            self._events += page
        if not self._events or self._run_id == SYSTEM_STREAM:
            raise NotFound(f"run `{self._run_id}` is not known", hint="`runfold ps --all` lists the runs")
        if run.turn_open:
            raise NotAllowed(
                f"turn {run.turn} of run `{self._run_id}` still writes its output",
                hint=f"`runfold cancel {self._run_id}` ends it now, `runfold wait {self._run_id}` waits",
                run_id=self._run_id,
            )

    def _secrets(self) -> set[str]:
        redactor, found = Redactor(), set[str]()

        def look(text: str) -> str:
            found.update(redactor.found(text) - {REDACTED})
            return text

        for recorded in self._events:
            if recorded.data is not None:
                value: Any = msgspec.json.decode(recorded.data)
                with_texts(value, look)
                for sha256 in blobs_of(recorded.type, value):
                    look(self._blob(sha256).decode("utf-8", "replace"))
        for path in self._files():
            look(path.read_text("utf-8", "replace"))
        return found

    def _blank(self, positions: Sequence[int]) -> list[tuple[int, int]]:
        """Take whole events; the answer is where in the output their text stands."""
        known = {recorded.position: recorded for recorded in self._events}
        regions: list[tuple[int, int]] = []
        for position in positions:
            recorded = known.get(position)
            if recorded is None:
                raise BadRequest(
                    f"run `{self._run_id}` has no event at position {position}",
                    hint=f"`runfold events {self._run_id}` lists them",
                )
            if event_class(recorded.type) not in ("activity", "output") and recorded.type not in _NEEDLESS:
                raise NotAllowed(
                    f"without event {position}, `{recorded.type}`, nobody would know what became of the run",
                    hint=f"`runfold redact {self._run_id} --text …` takes a text out of it and leaves the rest",
                    run_id=self._run_id,
                )
            if recorded.data is None:
                continue
            value: Any = msgspec.json.decode(recorded.data)
            self._left[position] = None
            self._blobs.update((sha256, "") for sha256 in blobs_of(recorded.type, value))
            if recorded.type == "subprocess_output":
                text = str(value.get("text", "")).encode()
                regions.append((int(value.get("offset", 0)), len(text)))
                self.gone.append(json.dumps(value.get("text", ""), ensure_ascii=False)[1:-1].encode())
        return regions

    def _without(self, type_name: str, content: bytes) -> bytes:
        """An event's data without the texts, and with other blobs where those held one."""
        value: Any = msgspec.json.decode(content)
        changed = with_texts(value, self._text)
        for sha256 in set(blobs_of(type_name, value)):
            other = self._other_blob(sha256)
            if other != sha256:
                self._blobs[sha256] = other
                changed = with_texts(changed, partial(_renamed, old=sha256, new=other))
        return content if changed == value else msgspec.json.encode(changed)

    def _text(self, text: str) -> str:
        for secret in self._texts:
            text = text.replace(secret, REDACTED)
        return text

    def _other_blob(self, sha256: str) -> str:
        content = self._blob(sha256)
        masked = mask(content, self._texts)
        if masked == content:
            return sha256
        other = blobs.put(self._data, masked)
        reach("redact.blob_stored")
        return other

    def _blob(self, sha256: str) -> bytes:
        try:
            return blobs.get(self._data, sha256)
        except (NotFound, BadRequest):
            return b""  # That it is missing is for `verify` to say.

    def _is_named(self, sha256: str) -> bool:
        if any(sha256.encode() in left for left in self._left.values() if left is not None):
            return True
        query = "SELECT position FROM events WHERE data IS NOT NULL AND instr(data, CAST(? AS BLOB))"
        return any(position not in self._left for (position,) in self._connection.execute(query, (sha256,)))

    def _checked(self, recorded: Recorded, left: bytes) -> bytes | None:
        """What is left must still be such an event; where it is not, nothing is left of it."""
        try:
            decode_stored(recorded.type, left)
        except InvalidEvent as error:
            if event_class(recorded.type) in ("activity", "output"):
                return None
            raise BadRequest(
                f"the text is a word that event {recorded.position}, `{recorded.type}`, needs",
                hint="give more of the text around it",
                run_id=self._run_id,
            ) from error
        return left

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return [path for path in sorted(self._folder.iterdir()) if path.is_file() and not path.name.endswith(READY)]

    def _look_into_files(self, regions: Sequence[tuple[int, int]]) -> None:
        for path in self._files():
            content = path.read_bytes()
            masked = mask(content, self._texts)
            if path.name == "output.log":
                for start, length in regions:
                    hidden = masked[start : start + length]
                    masked = masked[:start] + b"*" * len(hidden) + masked[start + length :]
                self._tell_turns(content, masked)
            if masked != content:
                self._ready[path] = masked

    def _tell_turns(self, content: bytes, masked: bytes) -> None:
        """The events that ended the turns name the digest of what the output is now."""
        offset = 0
        for recorded in self._events:
            if recorded.type not in _TURN_ENDS or recorded.data is None:
                continue
            before = self._left.get(recorded.position) or recorded.data
            value = cast("dict[str, Any]", msgspec.json.decode(before))
            if not value.get("output_sha256"):
                continue
            offset = int(value.get("output_offset", offset))
            end = offset + int(value.get("output_bytes", 0))
            if content[offset:end] != masked[offset:end]:
                value["output_sha256"] = hashlib.sha256(masked[offset:end]).hexdigest()
                self._left[recorded.position] = msgspec.json.encode(value)
            offset = end


def mask(content: bytes, texts: Sequence[str]) -> bytes:
    """The content with each text painted over: what stands behind it keeps its place."""
    for text in texts:
        for form in forms(text):
            content = content.replace(form, b"*" * len(form))
    return content


def forms(text: str) -> list[bytes]:
    """How a text may stand in a file: as it is, and as JSON writes it."""
    encoded = {
        text.encode("utf-8", "surrogateescape"),
        json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape"),
        json.dumps(text)[1:-1].encode(),
    }
    return sorted(encoded, key=lambda form: (-len(form), form))


def _renamed(text: str, *, old: str, new: str) -> str:
    return new if text == old else text


def digest_of(recorded: Recorded) -> bytes | None:
    if recorded.salt is None or recorded.data is None:
        return None
    return data_digest(recorded.salt, recorded.data)


def _told(recorded: Recorded, left: bytes | None, reason: str, actor: str, now_us: int) -> NewEvent:
    digests = {} if left is None else {"data": hashlib.sha256(left).hexdigest()}
    event = EventRedacted(version=recorded.version, hash=recorded.hash.hex(), reason=reason, digests=digests)
    return NewEvent(
        id=ordered_id(),
        type="event_redacted",
        data=encode_data(event),
        at_us=now_us,
        tenant=recorded.tenant,
        actor=actor,
        correlation=recorded.correlation,
    )
