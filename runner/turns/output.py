"""Every byte of a command's output reaches our own output at once and unchanged, and `output.log` whole and redacted;
the log of events gets a bounded sample of it.

One thread for each stream reads and writes in blocking chunks, so a slow reader of ours slows the command as a pipe
would; the event loop takes from the buffers at its own pace.
"""

import codecs
import os
import select
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from runfold.events import Event, SubprocessOutput, TelemetryRejected, Unknown
from runfold.redact import FormRedactor, StreamRedactor
from runner.turns.listener import Listener
from runner.turns.output_file import OutputFile

READ_BYTES = 64 * 1024
EVENT_TEXT_BYTES = 2048
PENDING_BYTES = 10 * EVENT_TEXT_BYTES  # One second's worth of events; what is older than that is skipped and counted.
LINE_BYTES_MAX = 4 * 1024 * 1024  # An agent's line holds whole files; a longer one is skipped and counted.
TELEMETRY_EVENTS_MAX = 2000
TELEMETRY_BATCH_EVENTS = 200
TELEMETRY_BATCH_BYTES = 256 * 1024


class _Pending:
    """What one stream has said and no event has told yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pieces: deque[tuple[int, bytes]] = deque()
        self.held_bytes = 0
        self.skipped = 0
        self.told_to = 0
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, offset: int, content: bytes) -> None:
        if not content:
            return
        self.pieces.append((offset, content))
        self.held_bytes += len(content)
        dropped = self.held_bytes > PENDING_BYTES
        while self.held_bytes > PENDING_BYTES:
            start, first = self.pieces.popleft()
            cut = min(len(first), self.held_bytes - PENDING_BYTES)
            # A character that the gap has cut would read as garbage.
            while cut < len(first) and first[cut] & 0xC0 == 0x80:
                cut += 1
            self.held_bytes -= cut
            self.skipped += cut
            if cut < len(first):
                self.pieces.appendleft((start + cut, first[cut:]))
        if dropped:
            self.decoder.reset()

    def take(self, *, final: bool = False) -> SubprocessOutput | None:
        if not self.pieces and not self.skipped:
            # Half a character that nothing followed.
            rest = self.decoder.decode(b"", final)
            return SubprocessOutput(text=rest, stream=self.name, offset=self.told_to) if rest else None
        offset = self.pieces[0][0] if self.pieces else self.told_to
        state = self.decoder.getstate()
        content = self._take_bytes(EVENT_TEXT_BYTES)
        text = self.decoder.decode(content, final and not self.pieces)
        if len(text.encode()) > EVENT_TEXT_BYTES:
            # Each broken byte becomes a replacement of three.
            self.decoder.setstate(state)
            kept = EVENT_TEXT_BYTES // 3 - 4
            self.pieces.appendleft((offset + kept, content[kept:]))
            self.held_bytes += len(content) - kept
            content = content[:kept]
            text = self.decoder.decode(content)
        self.told_to = offset + len(content)
        skipped, self.skipped = self.skipped, 0
        return SubprocessOutput(text=text, stream=self.name, offset=offset, skipped_bytes=skipped)

    def _take_bytes(self, most: int) -> bytes:
        parts: list[bytes] = []
        room = most
        while self.pieces and room:
            offset, piece = self.pieces.popleft()
            if len(piece) > room:
                self.pieces.appendleft((offset + room, piece[room:]))
                piece = piece[:room]
            parts.append(piece)
            room -= len(piece)
        self.held_bytes -= most - room
        return b"".join(parts)


class _Lines:
    """Cuts one stream into whole lines, where somebody wants to hear them; a long one is held in one piece only."""

    def __init__(self, name: str, listener: Listener) -> None:
        self._name, self._listener = name, listener
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._is_overlong = False
        self.skipped = 0

    def feed(self, content: bytes) -> Iterator[bytes]:
        first = content.find(b"\n")
        if first < 0:
            self._hold(content)
            return
        if self._held:
            self._held.append(content[:first])
            line = b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
            if self._listener.wants(line, self._name):
                yield line
            del line
            whole = content[first + 1 :]
        else:
            whole = content[first + 1 :] if self._is_overlong else content
        self._is_overlong = False
        end = whole.rfind(b"\n") + 1
        self._hold(whole[end:])
        if end and self._listener.wants(lines := whole[: end - 1], self._name):
            yield from lines.split(b"\n")

    def finish(self) -> Iterator[bytes]:
        return self.feed(b"\n")

    def _hold(self, content: bytes) -> None:
        if self._is_overlong or not content:
            return
        self._held.append(content)
        self._held_bytes += len(content)
        if self._held_bytes > LINE_BYTES_MAX:
            self._held.clear()
            self._held_bytes = 0
            self._is_overlong = True
            self.skipped += 1


class Output:
    """The output of one turn, at the end of its run's: `pump` runs in a thread for each stream, `take` in the loop."""

    def __init__(self, path: Path, secrets: Sequence[str], listener: Listener | None = None) -> None:
        self.file = OutputFile(path)
        self._secrets = secrets
        self._listener = listener or Listener()
        self._changed = threading.Condition()
        self._streams: list[_Pending] = []
        self._telemetry: deque[tuple[int, Event | Unknown]] = deque()
        self._rejected: dict[str, TelemetryRejected] = {}
        self._closed = False

    def pump(self, source: int, sink: int | None, name: str) -> None:
        """Carry one stream to its end, and on to `sink`; returns when the last writer has closed it."""
        pending, lines, redactor = _Pending(name), _Lines(name, self._listener), StreamRedactor(self._secrets)
        forms = FormRedactor()
        with self._changed:
            self._streams.append(pending)
        try:
            while chunk := _read(source):
                if sink is not None and not _write_whole(sink, chunk):
                    break
                said = redactor.feed(chunk)
                self._keep(pending, lines, forms.feed(said), said)
        finally:
            # Closed at once where our own reader has gone: the command then meets the broken pipe itself.
            os.close(source)
        said = redactor.finish()
        self._keep(pending, lines, forms.feed(said) + forms.finish(), said)
        self._hear(lines.finish(), name)
        if lines.skipped:
            reason = f"a line was longer than {LINE_BYTES_MAX} bytes"
            self._add(0, TelemetryRejected(reason=reason, count=lines.skipped))

    def take(self, *, sampling: bool = True) -> list[Event | Unknown]:
        """The next batch of events: what the program reported, and at most one sample of its output."""
        events: list[Event | Unknown] = []
        with self._changed:
            events += self._rejected.values()
            self._rejected.clear()
            size = 0
            while self._telemetry and len(events) < TELEMETRY_BATCH_EVENTS and size < TELEMETRY_BATCH_BYTES:
                line_bytes, event = self._telemetry.popleft()
                size += line_bytes
                events.append(event)
            self._changed.notify_all()
            # The stream served last goes to the end, so that neither starves the other.
            for pending in list(self._streams) if sampling else ():
                sample = pending.take()
                if sample is not None:
                    events.append(sample)
                    self._streams.remove(pending)
                    self._streams.append(pending)
                    break
        return events

    @property
    def has_telemetry(self) -> bool:
        return bool(self._telemetry or self._rejected)

    def finish(self) -> None:
        """Let the listener say what it only knows at the end; `take` gives it."""
        for event in self._listener.finish():
            self._telemetry.append((0, event))

    def close(self) -> list[Event | Unknown]:
        """Make the file durable and give the tail of each stream, once; what comes later is dropped."""
        with self._changed:
            if self._closed:
                return []
            self._closed = True
            self._changed.notify_all()
            events: list[Event | Unknown] = list(self._rejected.values())
            for pending in self._streams:
                while (sample := pending.take(final=True)) is not None:
                    events.append(sample)
            self.file.close()
        return events

    def reject(self, reason: str, sample: str) -> None:
        """Count a report that was not taken; told once a batch."""
        with self._changed:
            self._count(TelemetryRejected(reason=reason, sample=sample[:200]))

    def _keep(self, pending: _Pending, lines: _Lines, content: bytes, said: bytes) -> None:
        """`said` is heard: what has the form of a secret goes text by text when that is stored, so JSON stays JSON."""
        with self._changed:
            if self._closed:
                return
            if content:
                offset = self.file.began_at + self.file.size_bytes
                pending.add(offset, self.file.write(content))
        if said:
            self._hear(lines.feed(said), pending.name)

    def _hear(self, lines: Iterator[bytes], name: str) -> None:
        for line in lines:
            for event in self._listener.line(line, name):
                self._add(len(line), event)

    def _add(self, size: int, event: Event | Unknown) -> None:
        with self._changed:
            if isinstance(event, TelemetryRejected):
                self._count(event)
                return
            # A program that reports faster than the log takes it waits, as it would for a full pipe.
            while len(self._telemetry) >= TELEMETRY_EVENTS_MAX and not self._closed:
                self._changed.wait()
            self._telemetry.append((size, event))

    def _count(self, rejected: TelemetryRejected) -> None:
        if len(self._rejected) >= 20 and rejected.reason not in self._rejected:
            rejected = msgspec.structs.replace(rejected, reason="other")
        earlier = self._rejected.get(rejected.reason)
        if earlier is not None:
            rejected = msgspec.structs.replace(earlier, count=earlier.count + rejected.count)
        self._rejected[rejected.reason] = rejected


def _read(source: int) -> bytes:
    try:
        return os.read(source, READ_BYTES)
    except OSError:
        # A pty whose last writer has gone answers EIO instead of end of file.
        return b""


def _write_whole(sink: int, content: bytes) -> bool:
    """False when nobody reads our output any more."""
    view = memoryview(content)
    while view:
        try:
            view = view[os.write(sink, view) :]
        except BlockingIOError:
            # Somebody who shares the terminal has made it non-blocking.
            select.select([], [sink], [])
        except OSError:
            return False
    return True
