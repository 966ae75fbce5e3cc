"""Which bytes of which files are the output of a run, or of one of its steps, now or at a moment of its past."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec

from api.service import Service
from eventstore.contract import PAGE_EVENTS, EventLog
from eventstore.run_files import output_path, part_path
from projections.spans import StepTurn, step_turns
from projections.steps import get_step
from runfold.envelope import Recorded
from runfold.errors import NotFound
from runfold.events import SubprocessOutput, TurnEnded, TurnStarted

CHUNK_BYTES = 256 * 1024


class Part(msgspec.Struct, frozen=True):
    """A stretch of a file, in bytes."""

    path: Path
    offset: int
    size: int


class Parts:
    """Stretches of files that are read as one; `is_growing` where a command may be writing to the last of them."""

    def __init__(self, parts: Sequence[Part], *, is_growing: bool) -> None:
        self._parts = parts
        self.is_growing = is_growing
        self.size = sum(part.size for part in parts)

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes from there on, or as many as there are."""
        return b"".join(self._pieces(offset, size))

    def _pieces(self, offset: int, left: int) -> Iterator[bytes]:
        for part in self._parts:
            if left <= 0:
                return
            if offset >= part.size:
                offset -= part.size
                continue
            with part.path.open("rb") as file:
                file.seek(part.offset + offset)
                piece = file.read(min(left, part.size - offset))
            offset, left = 0, left - len(piece)
            yield piece


def whole_file(path: Path, *, upto: int | None = None) -> Parts:
    size = path.stat().st_size
    return Parts([Part(path, 0, size if upto is None else min(size, upto))], is_growing=False)


async def step_parts(
    service: Service, run_id: str, step: str, *, tenant: str, attempt: int | None, at: int | None, last: Recorded
) -> Parts:
    """What the commands of a step wrote, attempt after attempt, also while they are at work.

    Raises NotFound where the run has no such step, or it had no command of its own.
    """
    turns, _ = await service.views.query(step_turns, run_id, step, tenant=tenant, attempt=attempt, at=at)
    if not turns:
        raise await _nothing(service, run_id, step, tenant=tenant, attempt=attempt)
    parts: list[Part] = []
    for turn in turns:
        upto = None
        if turn.is_open and at is not None:
            upto = await part_written(service.log, run_id, turn, at, last)
        part = _part(service.data, run_id, step, turn, upto)
        if part is not None:
            parts.append(part)
    return Parts(parts, is_growing=any(turn.is_open for turn in turns))


def _part(data: Path, run_id: str, step: str, turn: StepTurn, upto: int | None) -> Part | None:
    if turn.output_offset is not None:
        path, offset, size = output_path(data, run_id), turn.output_offset, turn.output_bytes or 0
    elif turn.is_open:
        path, offset, size = part_path(data, run_id, step, turn.attempt), 0, 2**62
    else:
        return None
    try:
        there = path.stat().st_size
    except FileNotFoundError:
        return None  # Another machine has it, it was cleaned, or it has just become part of the whole.
    return Part(path, offset, max(0, min(size, there - offset, size if upto is None else upto)))


async def _nothing(service: Service, run_id: str, step: str, *, tenant: str, attempt: int | None) -> NotFound:
    found, _ = await service.views.query(get_step, run_id, step, tenant=tenant)
    if found is None:
        hint = f"`GET /api/runs/{run_id}/steps` lists its steps"
        return NotFound(f"run `{run_id}` has no step `{step[:80]}`", hint=hint, run_id=run_id)
    which = f"step `{step[:80]}`" if attempt is None else f"attempt {attempt} of step `{step[:80]}`"
    hint = "the output of the whole run holds what was said while it was at work"
    return NotFound(f"{which} had no command of its own", hint=hint, run_id=run_id)


async def whole_written(log: EventLog, run_id: str, at: int, last: Recorded) -> int:
    """How many bytes `output.log` had at a position: what the last event up to there that tells of it says."""
    of_step: dict[str, bool] = {}
    async with aclosing(_backwards(log, run_id, at, last)) as events:
        async for recorded in events:
            event = recorded.event()
            if isinstance(event, TurnEnded) and event.output_offset is not None:
                return event.output_offset + event.output_bytes
            if isinstance(event, SubprocessOutput):
                cause = recorded.cause or ""
                if cause not in of_step:
                    # A step writes to a file of its own until it ends.
                    began = [it.event() for it in await log.find(run_id, ids=[cause])] if cause else []
                    of_step[cause] = any(isinstance(it, TurnStarted) and it.step is not None for it in began)
                if not of_step[cause]:
                    return event.offset + len(event.text.encode())
    return 0


async def part_written(log: EventLog, run_id: str, turn: StepTurn, at: int, last: Recorded) -> int:
    """How many bytes the command of a step's open turn had written at a position, as far as events tell."""
    told: dict[str, int] = {}
    async with aclosing(_backwards(log, run_id, at, last)) as events:
        async for recorded in events:
            if recorded.position <= turn.position:
                return told.get(recorded.id, 0)
            event = recorded.event()
            if isinstance(event, SubprocessOutput) and recorded.cause is not None:
                told.setdefault(recorded.cause, event.offset + len(event.text.encode()))
    return 0


async def _backwards(log: EventLog, run_id: str, at: int, last: Recorded) -> AsyncGenerator[Recorded]:
    """The events of a run up to a position, the newest first."""
    end = last.version
    while end > 0:
        first = max(0, end - PAGE_EVENTS)
        after = (await log.position_of(run_id, first) or 0) if first else 0
        async with aclosing(log.read(after=after, stream=run_id, upto=at)) as pages:
            page = await anext(pages, None) if after < at else None
        for event in reversed(() if page is None else page.events):
            yield event
        end = first
