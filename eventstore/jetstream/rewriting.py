"""Redacting and trimming a log that many machines share: what is left is put beside the stream, then an event says so.

That event is the commit. Whoever takes it, on any machine and after any crash, changes its mirror and its files so, and
erases in the stream what was; nothing has to be done by the machine that began it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from nats.errors import Error as NatsError

from eventstore.blocks import OF_RUN
from eventstore.chain import data_digest
from eventstore.contract import APPEND_EVENTS_MAX, Appended
from eventstore.failpoints import reach
from eventstore.jetstream.messages import FORMAT, Message, decode
from eventstore.jetstream.planning import Planned
from eventstore.jetstream.publishing import Publisher
from eventstore.jetstream.rewritten import Files, Rewritten
from eventstore.keeping.cleaning import (
    EVER_US,
    Candidate,
    Cleaned,
    Emptied,
    SummedUp,
    archived,
    candidates,
    not_named,
    summed_up,
    to_empty,
    told_archived,
)
from eventstore.keeping.redacting import Redacted, Redaction, check_texts
from eventstore.log_file import open_reader
from eventstore.objects.shared_blobs import blob_key, store_of
from eventstore.objects.shared_outputs import bring_ended, output_of, share_output
from eventstore.preparing import Request, prepare
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import WHOLE_COLUMNS
from runfold.envelope import SYSTEM_STREAM, NewEvent, Recorded
from runfold.errors import Conflict, Contended, RunfoldError, Unavailable
from runfold.events import RunArchived, encode_data
from runfold.ordered_ids import ordered_id

TRIES = 5
LOOK_BYTES = 4096
_ROW = f"SELECT {WHOLE_COLUMNS} FROM events WHERE position = ?"  # noqa: S608
Append = Callable[[str, Sequence[NewEvent], int], Awaitable[Appended]]
Plan = Callable[[Sequence[Request]], Awaitable[Sequence[Planned | Appended | RunfoldError | None]]]


class Rewriter:
    """`append`, `plan` and `catch_up` are the log's own. Methods raise Unavailable where the servers do not answer."""

    def __init__(
        self,
        data: Path,
        rewritten: Rewritten,
        publisher: Publisher,
        *,
        append: Append,
        plan: Plan,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._data, self._rewritten, self._publisher = data, rewritten, publisher
        self._append, self._plan, self._catch_up = append, plan, catch_up

    async def redact(
        self, run_id: str, *, texts: Sequence[str], positions: Sequence[int], by_form: bool, reason: str, actor: str
    ) -> Redacted:
        """As `eventstore.keeping.redacting.redact`. Raises Contended where the run is written to all the time."""
        check_texts(texts)
        for _ in range(TRIES):
            await self._catch_up()
            work = await asyncio.to_thread(self._look, run_id, texts, positions, by_form)
            news = work.redaction.news(reason=reason, actor=actor, now_us=time.time_ns() // 1000)
            if not news:
                return work.redaction.redacted(is_gone=False)
            try:
                await self._put(work.left, news[0].id, work.files)
                reach("redact.put")
                expected = work.redaction.last.position
                for start in range(0, len(news), APPEND_EVENTS_MAX):
                    expected = (await self._append(run_id, news[start : start + APPEND_EVENTS_MAX], expected)).last
            except Conflict:
                continue
            await asyncio.to_thread(self._change_store, work)
            # The servers' own journals have it until they are shortened.
            return work.redaction.redacted(is_gone=False)
        raise Contended(f"run `{run_id}` was written to again and again", hint="redact it when it rests")

    async def trim(self, streams: Sequence[str], *, actor: str) -> tuple[str, ...]:
        """As `eventstore.keeping.cleaning.trim`."""
        await self._catch_up()
        wanted = set(streams)
        found = await asyncio.to_thread(candidates, self._data, before_us=EVER_US, whole=True)
        chosen = [candidate for candidate in found if candidate.run_id in wanted]
        return (await self.clean(chosen, whole=True, actor=actor)).runs if chosen else ()

    async def clean(self, chosen: Sequence[Candidate], *, whole: bool, actor: str) -> Cleaned:
        """As `eventstore.keeping.cleaning.clean`."""
        for candidate in chosen:
            # The archive holds what other machines wrote, too.
            await asyncio.to_thread(bring_ended, self._data, candidate.run_id)
        archive = await asyncio.to_thread(archived, self._data, chosen, now_us=time.time_ns() // 1000)
        take = self._trim if whole else self._empty
        done = [candidate for candidate in chosen if await take(candidate, archive, actor)]
        gone = tuple(candidate.run_id for candidate in done)
        return Cleaned(
            archive=archive[0],
            runs=gone,
            skipped=tuple(candidate.run_id for candidate in chosen if candidate.run_id not in gone),
            events=sum(candidate.events for candidate in done),
            size_bytes=sum(candidate.size_bytes for candidate in done),
        )

    async def _empty(self, candidate: Candidate, archive: tuple[str, str], actor: str) -> bool:
        """Whether the run was emptied; one that has moved since it was archived stays."""
        await self._catch_up()
        ends = await asyncio.to_thread(self._ends, candidate.run_id)
        if ends is None or ends[0] != candidate.version:
            return False
        emptied, left, lonely = await asyncio.to_thread(self._look_to_empty, candidate)
        told = told_archived(
            candidate,
            reason="cleaned",
            tenant=emptied.tenant,
            counts={"events": candidate.events},
            summary=emptied.summary,
            archive=archive,
            actor=actor,
            now_us=time.time_ns() // 1000,
        )
        await self._put(left, told.id, Files(run_id=candidate.run_id, removals=lonely, is_emptied=True))
        reach("clean.put")
        try:
            await self._append(candidate.run_id, [told], ends[1])
        except Conflict:
            return False
        await asyncio.to_thread(self._remove_shared, lonely)
        return True

    def _look_to_empty(self, candidate: Candidate) -> tuple[Emptied, list[tuple[int, Message]], tuple[str, ...]]:
        with closing(open_reader(self._data)) as connection:
            emptied = to_empty(connection, candidate)
            left = [(each.position, _left(connection, each.position, None)) for each in emptied.events]
            outputs = _outputs_of(connection, candidate)
            return emptied, left, (*not_named(connection, emptied.blobs, but=candidate.run_id), *outputs)

    async def _trim(self, candidate: Candidate, archive: tuple[str, str], actor: str) -> bool:
        """Whether the run went; one that has moved since it was archived stays."""
        for _ in range(TRIES):
            await self._catch_up()
            ends = await asyncio.to_thread(self._ends, candidate.run_id)
            if ends is None or ends[0] != candidate.version:
                return False
            summed, lonely = await asyncio.to_thread(self._sum_up, candidate)
            now_us = time.time_ns() // 1000
            # The run's very last event: it stays in the stream, so that nobody can begin or go on with that id.
            last = NewEvent(
                id=ordered_id(),
                type="run_archived",
                data=encode_data(RunArchived(run_id=candidate.run_id, reason="trimmed", archive=archive[0])),
                at_us=now_us,
                tenant=summed.tenant,
                actor=actor,
            )
            (closing_plan,) = await self._plan([prepare(candidate.run_id, [last], ends[1])])
            if not isinstance(closing_plan, Planned):
                continue
            told = told_archived(
                candidate,
                reason="trimmed",
                tenant=summed.tenant,
                counts={"trimmed": summed.events, "closed": 1},
                summary=summed.summary,
                archive=archive,
                actor=actor,
                now_us=now_us,
                last=decode(closing_plan.messages[-1], 0).hash,
            )
            (summary_plan,) = await self._plan([prepare(SYSTEM_STREAM, [told], ends[2])])
            if not isinstance(summary_plan, Planned):
                continue
            await self._put([], told.id, Files(run_id=candidate.run_id, removals=lonely) if lonely else None)
            reach("trim.put")
            if await self._publisher.publish_together([closing_plan, summary_plan]):
                await self._catch_up()
                await asyncio.to_thread(self._remove_shared, lonely)
                return True
        return False

    async def _put(self, left: Sequence[tuple[int, Message]], event_id: str, files: Files | None) -> None:
        try:
            await self._rewritten.put(left)
            if files is not None:
                await self._rewritten.put_files(event_id, files)
        except (NatsError, TimeoutError, OSError) as error:
            raise Unavailable(
                f"what is to be left cannot be put beside the stream: {type(error).__name__}",
                hint="a majority of the log's servers must be up; nothing was changed, try again",
            ) from error

    def _look(self, run_id: str, texts: Sequence[str], positions: Sequence[int], by_form: bool) -> "_Work":
        # What other machines wrote is looked into here too.
        bring_ended(self._data, run_id)
        with closing(open_reader(self._data)) as connection:
            redaction = Redaction(self._data, run_id, connection)
            redaction.look(texts, positions, by_form=by_form)
            left = [(each.position, _left(connection, each.position, data)) for each, data in redaction.changed]
            removals = redaction.lonely()
            before = {name for each, _ in redaction.changed for name in _outputs(each, each.data)}
            after = {name for each, data in redaction.changed for name in _outputs(each, data)}
            paints = {path.name: _painted(path.read_bytes(), content) for path, content in redaction.files.items()}
        files = Files(run_id=run_id, paints=paints, removals=removals) if paints or removals else None
        return _Work(redaction, left, files, tuple(before - after))

    def _change_store(self, work: "_Work") -> None:
        """The outputs as they are now take the place of those that were, in the store of all machines."""
        store = store_of(self._data)
        if store is None:
            return
        for recorded, data in work.redaction.changed:
            output = output_of(recorded.type, _content(data))
            if output is not None:
                share_output(store, self._data / "runs" / recorded.run_id / "output.log", output)
        self._remove_shared((*work.outputs, *(work.files.removals if work.files is not None else ())))

    def _remove_shared(self, names: Sequence[str]) -> None:
        store = store_of(self._data)
        for sha256 in names if store is not None else ():
            if store is not None:
                store.remove(blob_key(sha256))

    def _ends(self, run_id: str) -> tuple[int, int, int] | None:
        """The version and position of a run's last event, and the position of the system stream's."""
        with closing(open_reader(self._data)) as connection:
            query = "SELECT version, position FROM heads WHERE run_id = ?"
            run = connection.execute(query, (run_id,)).fetchone()
            system = connection.execute(query, (SYSTEM_STREAM,)).fetchone()
        return None if run is None else (run[0], run[1], 0 if system is None else system[1])

    def _sum_up(self, candidate: Candidate) -> tuple[SummedUp, tuple[str, ...]]:
        with closing(open_reader(self._data)) as connection:
            summed = summed_up(connection, candidate)
            lonely = not_named(connection, summed.blobs, but=candidate.run_id)
            return summed, (*lonely, *_outputs_of(connection, candidate))


@dataclass(frozen=True)
class _Work:
    """A redaction that was looked at; `outputs`: digests of turns' outputs that it changes."""

    redaction: Redaction
    left: list[tuple[int, Message]]
    files: Files | None
    outputs: tuple[str, ...]


def _left(connection: sqlite3.Connection, position: int, data: bytes | None) -> Message:
    """The message of an event with what is left of its data; its digest keeps the chain."""
    row = connection.execute(_ROW, (position,)).fetchone()
    whole = msgspec.convert((FORMAT, 0, *row[1:]), Message)
    digest = whole.digest or data_digest(whole.salt or b"", whole.data or b"")
    return msgspec.structs.replace(whole, data=data, salt=None, digest=digest)


def _outputs_of(connection: sqlite3.Connection, candidate: Candidate) -> list[str]:
    """The digests of a run's outputs, which no other run names: they are in its events alone."""
    query = f"SELECT type, data FROM {OF_RUN} WHERE run_id = ? AND data IS NOT NULL ORDER BY block, version"  # noqa: S608
    found = (output_of(type_name, _content(data)) for type_name, data in connection.execute(query, (candidate.run_id,)))
    return not_named(connection, {output.sha256 for output in found if output is not None}, but=candidate.run_id)


def _outputs(recorded: Recorded, data: bytes | None) -> list[str]:
    output = output_of(recorded.type, _content(data))
    return [] if output is None else [output.sha256]


def _content(data: bytes | None) -> Any:
    try:
        return None if data is None else msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _painted(before: bytes, after: bytes) -> list[tuple[int, int]]:
    """Where two texts of one length differ: (offset, length)."""
    places: list[tuple[int, int]] = []
    for start in range(0, len(before), LOOK_BYTES):
        one, other = before[start : start + LOOK_BYTES], after[start : start + LOOK_BYTES]
        if one == other:
            continue
        for number, (was, remains) in enumerate(zip(one, other, strict=False), start):
            if was == remains:
                continue
            if places and sum(places[-1]) == number:
                places[-1] = (places[-1][0], places[-1][1] + 1)
            else:
                places.append((number, 1))
    return places
