"""What every log promises to what stands above it; SQLite and a replicated log keep the same contract."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from eventstore.framing import Framed, Framing, framed
from runfold.envelope import NewEvent, Recorded
from runfold.errors import NotAllowed, RunfoldError

APPEND_EVENTS_MAX = 500
APPEND_BYTES_MAX = 512 * 1024
EVENT_BYTES_MAX = 64 * 1024
PAGE_EVENTS = 500
TAIL_BYTES = 64 * 1024  # A page of a tail: what it costs to hold it for one slow reader.


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an append. `events` are as recorded; `duplicate` when they had been before."""

    first: int
    last: int
    version: int
    duplicate: bool
    events: Sequence[Recorded]


Done: TypeAlias = Callable[[Appended | RunfoldError], object]
"""Is called with the outcome of an append."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """`first`: the earliest position still kept (1 in a new log); `last`: the head (0 when empty)."""

    first: int
    last: int
    log_id: str


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Events in order, and how far the reader looked: go on from `scanned_to`, also where nothing matched.

    `is_full`: it ends because there is more, and not because there is no more yet.
    """

    events: tuple[Recorded, ...]
    scanned_to: int
    is_full: bool = False


class Presence(Protocol):
    """Who lives, of those that say so to all machines; a name that falls silent is gone after `ALIVE_SECONDS`."""

    async def beat(self, name: str) -> None:
        """Raises Unavailable."""
        ...

    async def is_alive(self, name: str) -> bool:
        """Raises Unavailable."""
        ...

    async def alive(self) -> tuple[str, ...]:
        """The names that are heard of, `NAMES_MAX` at most. Raises Unavailable."""
        ...

    async def leave(self, name: str) -> None:
        """Raises Unavailable."""
        ...


class EventLog(Protocol):
    presence: Presence | None = None
    """Where several machines share the log; None where all who drive runs can be asked here."""

    @property
    def behind_seconds(self) -> float:
        """For how long this machine may have read what is no longer the newest; 0 where the log is here."""
        return 0.0

    async def append(self, stream: str, events: Sequence[NewEvent], *, expected: int) -> Appended:
        """Append all or nothing after the stream's last event at position `expected` (0: a new stream).

        The same ids, order and content again answer with the original positions, whatever `expected` says.
        Raises Conflict, EventIdConflict, TooLarge, BadRequest, Unavailable, LogFailed.
        """
        ...

    async def submit(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected: int,
        done: Done,
    ) -> None:
        """As `append`, but returns once the log has the events in its hands; `done` is then called in this loop, once.

        Raises TooLarge, BadRequest, Unavailable where the log does not take them: `done` is never called then.
        """
        ...

    def offer(self, stream: str, events: Sequence[NewEvent], *, expected: int, done: Done) -> bool:
        """As `submit`, at once; False where the log has no room for more now, which `submit` waits for."""
        return False

    async def bounds(self) -> Bounds: ...

    @property
    def damaged(self) -> int:
        """How many runs, and the log itself as one, this process has found altered when it read them."""
        return 0

    async def last(self, stream: str) -> Recorded | None: ...

    async def position_of(self, stream: str, version: int) -> int | None:
        """Where an event of a stream stands in the log, by its number in the stream; None where there is none."""
        ...

    def read(self, *, after: int = 0, stream: str | None = None, upto: int | None = None) -> AsyncGenerator[Page, None]:
        """Pages up to the head (or `upto`), then ends. Raises Trimmed, Diverged."""
        ...

    def tail(self, *, after: int, stream: str | None = None) -> AsyncGenerator[Page, None]:
        """Pages for ever; waits at the head. Raises Trimmed, Diverged."""
        ...

    async def page(self, *, after: int, stream: str | None = None) -> Page:
        """One page of a tail; at the head it has no events and went no further. Raises Trimmed, Diverged."""
        ...

    async def frames(self, *, after: int, framing: Framing, stream: str | None = None) -> AsyncGenerator[Framed, None]:
        """The tail as the bytes of an event stream. A log that has quicker ones gives the same bytes."""
        async with aclosing(self.tail(after=after, stream=stream)) as pages:
            async for page in pages:
                yield framed(page.events, framing, scanned_to=page.scanned_to)

    async def framed(self, *, after: int, framing: Framing, stream: str | None = None, begins: bool = False) -> Framed:
        """One page of the frames; at the head it is empty and went no further. Raises Trimmed, Diverged.

        `begins`: for who has had nothing yet, and is given a short page soon.
        """
        page = await self.page(after=after, stream=stream)
        return framed(page.events, framing, scanned_to=page.scanned_to)

    async def find(self, stream: str, *, ids: Sequence[str] = (), commands: Sequence[str] = ()) -> tuple[Recorded, ...]:
        """The stream's events with one of these ids, or made by one of these commands, in order."""
        ...

    async def redact(
        self, stream: str, *, texts: Sequence[str] = (), positions: Sequence[int] = (), reason: str = "", actor: str
    ) -> bool:
        """Take texts, or whole events, out of a stream for good; its positions, ids and hashes stay.

        `event_redacted` at its end says so, and events sent again are known all the same. The answer is whether no byte
        of the log holds the text any more: another stream may say it too, a reader hold an old page, or the servers of
        a log that several machines share keep it in their journals for a while.
        Raises NotFound, NotAllowed, BadRequest; nothing was changed then.
        """
        raise not_rewritten()

    async def archive(self, streams: Sequence[str], path: Path) -> None:
        """Write the streams to one file that proves itself. Raises NotFound, NotAllowed, BadRequest, OSError."""
        raise not_rewritten()

    async def trim(self, streams: Sequence[str], *, actor: str) -> tuple[str, ...]:
        """Archive whole final streams, then take them; `run_archived` on the system stream says what they came to.

        The answer names those that went: one that is not final, or is gone, stays as it is. What is gone is Trimmed for
        whoever reads it, and its name is never given again. Raises Refused where what was to go does not prove itself.
        """
        raise not_rewritten()

    async def close(self) -> None: ...


def not_rewritten() -> NotAllowed:
    return NotAllowed(
        "this log is shared by several machines and is not rewritten",
        hint="let its own retention take what is old, or export the runs and keep them elsewhere",
    )
