"""A recorded session into the ledger: read whole before anything is written, written in batches, and only once.

Every id is derived from the source, so a second import adds nothing, and one that was cut is completed by the next.
"""

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

from eventstore.ledger import Ledger
from projections.engine.views import Views
from projections.sessions import runs_of_session
from runfold.commands import Command, Observe, OpenReported
from runfold.envelope import derived_id, run_id_of
from runfold.errors import BadRequest, EventIdConflict, KeyReused, NotFound
from runfold.events import encode_data
from runfold.state import Run, new_run
from runner.imports.recognise import Telling
from runner.imports.source import Source
from runner.imports.story import Story, Timed
from runner.imports.values import text

BATCH_EVENTS_MAX = 400
BATCH_BYTES_MAX = 256 * 1024
NAMESPACE = "5b1f0f9e-7c0a-5d0e-9a53-5a9d2c0b7f11"
"""The UUID under which the names of sources become run ids; it never changes."""


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one run of a file. `changed`: it was imported before, from other content."""

    file: str
    format: str
    run_id: str
    title: str
    status: str
    reason_code: str
    events_new: int
    events_known: int
    records_unknown: int
    changed: bool = False
    driven: bool = False
    """It is the session of a run that was driven here, and stands in its log already."""


def read_file(path: Path, *, progress: Callable[[int], None] = lambda events: None) -> Telling:
    """A file's first reading, to its end. Raises RunfoldError where the file is at fault."""
    source = Source(path)
    first = Telling(source, fallback_us=source.modified_us)
    for number, _ in enumerate(first.events()):
        if number % BATCH_EVENTS_MAX == 0:
            progress(0)
    return first


async def import_file(
    ledger: Ledger,
    first: Telling,
    *,
    tenant: str,
    actor: str,
    data: Path | None = None,
    again: bool = False,
    progress: Callable[[int], None] = lambda events: None,
) -> list[Imported]:
    """Import every run of a file, after its first reading. Raises RunfoldError.

    `data` is where the ledger's views are: a session that a run of theirs drove is not counted a second time.
    """
    source = first.source
    modified_us = source.modified_us
    writers: dict[str, _Writer] = {}
    driven: dict[str, Imported] = {}
    for key, story in first.stories.items():
        run = None if again or data is None else await _driven_run(ledger, data, tenant, story.session)
        if run is None:
            writers[key] = await _writer(ledger, source, story, tenant=tenant, actor=actor, again=again)
        else:
            driven[key] = _known(source, story, run, driven=True)
    if any(writer.is_open for writer in writers.values()):
        # What happens before the source's first time takes that, and without any an import that was cut keeps its own.
        began = [us for writer in writers.values() if (us := writer.created_us) is not None]
        await _write(Telling(source, fallback_us=min(began, default=modified_us)), writers, progress)
    return [driven[key] if key in driven else await writers[key].finish() for key in first.stories]


async def _driven_run(ledger: Ledger, data: Path, tenant: str, session: str | None) -> Run | None:
    """The run here that drove this session of an agent."""
    if not session:
        return None
    for run_id in await asyncio.to_thread(_runs_of_session, data, tenant, session):
        run = await ledger.state(run_id, tenant=tenant)
        if run.driver != "imported":
            return run
    return None


def _runs_of_session(data: Path, tenant: str, session: str) -> list[str]:
    views = Views.open(data)
    try:
        views.refresh()
        return runs_of_session(views.connection, tenant, session)
    finally:
        views.close()


async def _write(telling: Telling, writers: dict[str, "_Writer"], progress: Callable[[int], None]) -> None:
    for count, (key, timed) in enumerate(telling.events(), 1):
        if key in writers:
            await writers[key].take(timed)
        if count % BATCH_EVENTS_MAX == 0:
            progress(count)


async def _writer(ledger: Ledger, source: Source, story: Story, *, tenant: str, actor: str, again: bool) -> "_Writer":
    identity = f"{story.identity}#{source.sha256}" if again else story.identity
    writer = _Writer(ledger, source, story, identity=identity, tenant=tenant, actor=actor)
    await writer.look()
    return writer


class _Writer:
    """Writes the events of one story to its run."""

    def __init__(self, ledger: Ledger, source: Source, story: Story, *, identity: str, tenant: str, actor: str) -> None:
        self._ledger = ledger
        self._source = source
        self._story = story
        self._who = {"actor": actor, "tenant": tenant}
        # Tenants do not know of each other, so the same file gives each a run of its own.
        self._uuid = derived_id(NAMESPACE, f"{tenant}\0{identity}")
        self.run_id = run_id_of(uuid.UUID(self._uuid))
        self._run: Run | None = None
        self._before = 0
        self._opened = False
        self._batch: list[Timed] = []
        self._batch_bytes = 0
        self._written = 0

    async def look(self) -> None:
        try:
            self._run = await self._ledger.state(self.run_id, tenant=self._who["tenant"])
            self._before = self._run.version
        except NotFound:
            self._run = None

    @property
    def is_open(self) -> bool:
        return self._run is None or not self._run.is_resting

    @property
    def created_us(self) -> int | None:
        return self._run.created_at_us if self._run else self._story.created_us

    async def take(self, timed: Timed) -> None:
        if not self.is_open:
            return
        size = len(encode_data(timed.event))
        if len(self._batch) >= BATCH_EVENTS_MAX or self._batch_bytes + size > BATCH_BYTES_MAX:
            await self._flush()
        self._batch.append(timed)
        self._batch_bytes += size

    async def finish(self) -> Imported:
        """The last events and the end."""
        if self.is_open:
            await self._flush()
            if self._story.ending is not None:
                await self._execute("end", self._story.ending, at_us=self._story.ended_us)
        run = self._run or new_run(self.run_id)
        known = _known(self._source, self._story, run)
        return msgspec.structs.replace(
            known, events_new=run.version - self._before, events_known=self._before, changed=self._is_changed(run)
        )

    async def _flush(self) -> None:
        await self._open()
        if not self._batch:
            return
        events = tuple(timed.event for timed in self._batch)
        await self._execute(
            f"batch:{self._written}",
            Observe(events=events),
            ids=[derived_id(self._uuid, f"event:{self._written + number}") for number in range(len(events))],
            ats_us=[timed.at_us for timed in self._batch],
        )
        self._written += len(events)
        self._batch, self._batch_bytes = [], 0

    async def _open(self) -> None:
        if self._opened or self._run is not None:
            return
        self._opened = True
        said = {
            "file": self._source.path.name,
            "format": self._story.format,
            "sha256": self._source.sha256,
            "size_bytes": self._source.size_bytes,
            "source": self._story.identity,
        }
        created_us = self._story.now_us if self._story.created_us is None else self._story.created_us
        await self._execute("open", OpenReported(queued=self._story.queued(source=said)), at_us=created_us)

    async def _execute(
        self,
        name: str,
        command: Command,
        *,
        ids: list[str] | None = None,
        ats_us: list[int] | None = None,
        at_us: int | None = None,
    ) -> None:
        try:
            executed = await self._ledger.execute(
                self.run_id,
                command,
                command_id=derived_id(self._uuid, name),
                ids=ids or (),
                ats_us=ats_us or (),
                at_us=self._story.now_us if at_us is None else at_us,
                **self._who,
            )
        except (KeyReused, EventIdConflict) as error:
            raise BadRequest(
                f"`{self._source.path}` is not what run `{self.run_id}` was begun from: its import was cut, "
                "and the file has changed since",
                hint="`runfold import --again FILE` imports it as a run of its own",
                run_id=self.run_id,
            ) from error
        self._run = executed.run

    def _is_changed(self, run: Run) -> bool:
        return bool(self._before) and text(run.payload, "imported", "sha256") != self._source.sha256


def _known(source: Source, story: Story, run: Run, *, driven: bool = False) -> Imported:
    return Imported(
        file=str(source.path),
        format=story.format,
        run_id=run.run_id,
        title=run.title,
        status=run.status or "",
        reason_code=run.reason_code,
        events_new=0,
        events_known=run.version,
        records_unknown=story.unknown,
        driven=driven,
    )
