"""One caller's command on its way through the ledger, and the events that it becomes."""

import hashlib
import uuid
from collections.abc import Callable, Sequence

import msgspec

from eventstore.rows import RecordedRows
from runfold.causation import WORK, Causes, cause_of, cause_of_work, follows_from, remember
from runfold.commands import (
    CheckLimits,
    Command,
    Grant,
    Observe,
    OpenReported,
    Queue,
    Resume,
    StartHere,
    StartStep,
    StartTurn,
)
from runfold.envelope import NewEvent, Recorded, derived_id
from runfold.errors import BadRequest, NotFound, RunfoldError, Trimmed
from runfold.events import Event, ToolReturned, Unknown, encode_data, event_type
from runfold.ordered_ids import numbered_ids
from runfold.state import Run

_encode = msgspec.json.Encoder(order="deterministic").encode


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """The run after the command, the command's events, and whether they had been recorded before."""

    run: Run
    events: Sequence[Recorded]
    duplicate: bool

    @property
    def ends(self) -> tuple[int, int, int]:
        """The first and the last position of the events, and the last one's version; 0, 0 and the run's of none."""
        events = self.events
        if isinstance(events, RecordedRows):
            return events.ends
        return (events[0].position, events[-1].position, events[-1].version) if events else (0, 0, self.run.version)


class Wish(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A command, who sends it, and the ids and times he gave his events; ids are canonical."""

    run_id: str
    command: Command
    command_id: str
    is_new: bool
    """Whether the command id was made for this call: then no earlier call can have used it."""
    actor: str
    tenant: str
    ids: tuple[str | None, ...]
    ats_us: tuple[int | None, ...]
    at_us: int | None
    """When the command's own events happened; None for now."""
    cause: str | None
    """The event that the caller answers, where he knows it better than the run's state."""

    @classmethod
    def of(
        cls,
        run_id: str,
        command: Command,
        *,
        command_id: str,
        is_new: bool,
        actor: str,
        tenant: str,
        ids: Sequence[str | None],
        ats_us: Sequence[int | None],
        at_us: int | None = None,
        cause: str | None = None,
    ) -> "Wish":
        """Raises BadRequest where ids are no UUIDs, twice, or more than events."""
        observed = len(command.events) if isinstance(command, Observe) else 0
        if len(ids) > observed or len(ats_us) > observed:
            raise BadRequest(f"more event ids or times than events for run `{run_id}`", hint="one id and time an event")
        canonical = tuple([None if text is None else _uuid_text(text) for text in ids]) if ids else ()
        given = [text for text in canonical if text is not None]
        if len(given) > 1 and len(set(given)) != len(given):
            raise BadRequest(f"an event id is twice in one call for run `{run_id}`", hint="give each event its own id")
        if not is_new:
            command_id = _uuid_text(command_id)
        return cls(
            run_id=run_id,
            command=command,
            command_id=command_id,
            is_new=is_new,
            actor=actor,
            tenant=tenant,
            ids=canonical,
            ats_us=tuple(ats_us),
            at_us=at_us,
            cause=None if cause is None else _uuid_text(cause),
        )

    @property
    def names(self) -> frozenset[str]:
        """The command id and the given event ids: what a retry has in common with its original."""
        return frozenset((self.command_id, *own_ids(self)))

    @property
    def observed(self) -> tuple[Event | Unknown, ...]:
        """The events that the caller himself sent."""
        return self.command.events if isinstance(self.command, Observe) else ()


def own_ids(wish: Wish) -> tuple[str, ...]:
    """The ids that the caller gave, in order."""
    return tuple([text for text in wish.ids if text is not None]) if wish.ids else ()


def new_events(
    wish: Wish,
    events: Sequence[Event | Unknown],
    *,
    now_us: int,
    redact: Callable[[list[bytes]], list[bytes]] = list,
) -> list[NewEvent]:
    """The envelopes of what was decided, with the data as `redact` leaves it.

    The caller's own events keep the ids and times that he gave them, and the digest of what he sent.
    """
    result: list[NewEvent] = []
    sent = wish.observed
    whole = None if isinstance(wish.command, Observe) else command_digest(wish.command)
    command_id, tenant, actor, ids, ats_us = wish.command_id, wish.tenant, wish.actor, wish.ids, wish.ats_us
    # Who gave the command an id of his own may send it again: then its events are the same again.
    made_ids = numbered_ids(command_id, len(events)) if wish.is_new else ()
    datas = [encode_data(event) for event in events]
    following = 0
    for number, (event, data, content) in enumerate(zip(events, datas, redact(datas), strict=True)):
        identity: str | None = None
        at_us = wish.at_us
        digest = whole
        type_name = event_type(event)
        if following < len(sent) and (event is sent[following] or event == sent[following]):
            identity = ids[following] if following < len(ids) else None
            at_us = ats_us[following] if following < len(ats_us) else at_us
            digest = _digest(type_name, data)
            following += 1
        if identity is None:
            identity = made_ids[number] if made_ids else derived_id(command_id, str(number))
        result.append(
            NewEvent(
                id=identity,
                type=type_name,
                data=content,
                at_us=now_us if at_us is None else at_us,
                tenant=tenant,
                actor=actor,
                command=command_id,
                sent=digest,
            )
        )
    return result


def sent_digest(event: Event | Unknown) -> bytes:
    """What makes a retry the same: the type and the data as sent; the log salts it."""
    return _digest(event_type(event), encode_data(event))


def _digest(type_name: str, data: bytes) -> bytes:
    return hashlib.sha256(type_name.encode() + b"\0" + data).digest()


def command_digest(command: Command) -> bytes:
    """What makes a command the same again, whatever the run's state, and what others have spent, let it become."""
    if isinstance(command, StartTurn | StartStep | CheckLimits) and command.budgets:
        command = msgspec.structs.replace(command, budgets=())
    if isinstance(command, Resume | Grant):
        # Who goes on is judged by who is there at the time, and not part of the wish.
        command = msgspec.structs.replace(command, driver=None)
    if isinstance(command, Queue | StartHere | OpenReported):
        queued = msgspec.structs.replace(command.queued, approval=None)
        command = msgspec.structs.replace(command, queued=queued, estimated=None)
    return hashlib.sha256(type(command).__name__.encode() + b"\0" + _encode(command)).digest()


def with_causes(
    wish: Wish, news: Sequence[NewEvent], events: Sequence[Event | Unknown | None], causes: Causes
) -> tuple[list[NewEvent], Causes]:
    """The events with what made them, and what later ones may answer; `events` are the same, decoded."""
    made: list[NewEvent] = []
    previous: str | None = None
    """The last event of the same append that the next may follow from."""
    is_report = isinstance(wish.command, Observe)
    unasked = wish.actor.startswith("user:")
    usual = cause_of_work(causes, unasked=unasked) if wish.cause is None else wish.cause
    for new, event in zip(news, events, strict=True):
        # The facts of one report do not follow from each other.
        follows = None if is_report and new.sent is not None else previous
        if follows is None and type(event) in WORK and getattr(event, "step", None) is None:
            cause = usual
        else:
            cause = _cause(wish, event, causes, follows, unasked=unasked)
            causes = remember(causes, event, new.id)
            usual = cause_of_work(causes, unasked=unasked) if wish.cause is None else wish.cause
        made.append(new if cause is None else msgspec.structs.replace(new, cause=cause))
        if follows_from(event):
            previous = new.id
    return made, causes


def _cause(
    wish: Wish, event: Event | Unknown | None, causes: Causes, previous: str | None, *, unasked: bool
) -> str | None:
    cause = wish.cause if previous is None else None
    # The end of a call follows from the call, whatever turn both happened in.
    if cause is None or isinstance(event, ToolReturned):
        cause = cause_of(causes, event, previous, unasked=unasked and previous is None) or cause
    return cause


def unknown_run(run_id: str) -> NotFound:
    """The answer for a run that is not there, and, word for word, for one of another tenant."""
    return NotFound(f"run `{run_id}` is not known", hint="`runfold ps --all` lists the runs", run_id=run_id)


def as_told(error: Trimmed, run_id: str, tenant: str | None) -> RunfoldError:
    """The error as a caller of this tenant may hear it: that another's run was there is told to nobody else."""
    is_others = tenant is not None and error.tenant not in (None, tenant)
    return unknown_run(run_id) if is_others else error


def _uuid_text(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise BadRequest(f"`{text}` is not a UUID", hint="ids of events and commands are UUIDs") from None
