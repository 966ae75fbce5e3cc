"""What the tests of the views share: a log of random runs of two tenants, and what it holds, read as another would."""

import random
import uuid
from pathlib import Path

import msgspec

from eventstore.log_file import open_reader
from eventstore.reading import read_page
from eventstore.sqlite import SqliteLog
from runfold.envelope import SYSTEM_STREAM, NewEvent, Recorded
from runfold.events import (
    Anchor,
    ApprovalGranted,
    ApprovalRequested,
    ArtifactStored,
    CancelRequested,
    CommandRefused,
    Event,
    EventRedacted,
    FileRead,
    FileWritten,
    LabelChanged,
    Message,
    RunCancelled,
    RunClaimed,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    RunStopped,
    StepCompleted,
    StepFailed,
    StepStarted,
    SubprocessOutput,
    TokenUsage,
    ToolCalled,
    ToolReturned,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    UnitApproved,
    UnitsPlanned,
    UnitStarted,
    Unknown,
    encode_data,
    event_type,
)

CREATED_US = 1_700_000_000_000_000
ACTORS = ("user:anna", "user:bob", "worker:w1", "system")


def new_event(
    event: Event | Unknown,
    *,
    at_us: int = CREATED_US,
    tenant: str = "default",
    actor: str = "user:anna",
    cause: str | None = None,
) -> NewEvent:
    return NewEvent(
        id=str(uuid.uuid4()),
        type=event_type(event),
        data=encode_data(event),
        at_us=at_us,
        tenant=tenant,
        actor=actor,
        cause=cause,
        command=str(uuid.uuid4()),
    )


async def append(log: SqliteLog, run_id: str, *events: Event, at_us: int = CREATED_US, tenant: str = "default") -> None:
    last = await log.last(run_id)
    new = [new_event(event, at_us=at_us, tenant=tenant) for event in events]
    await log.append(run_id, new, expected=0 if last is None else last.position)


def random_event(chance: random.Random) -> Event | Unknown:
    path = f"src/{chance.choice('xyz')}{chance.choice(['.py', '[1].py', '/deep/a.txt'])}"
    step, call, turn = chance.choice("ab"), chance.choice("cde"), chance.randrange(3)
    events: list[Event | Unknown] = [
        RunStarted(worker="w1"),
        RunPaused(reason="50% done"),
        RunResumed(),
        CancelRequested(reason="too dear"),
        RunCancelled(),
        RunStopped(reason_code="USER_INTERRUPT"),
        RunCompleted(reason_code="EXIT_ZERO"),
        RunFailed(reason_code="EXIT_NONZERO"),
        TurnStarted(turn=turn, step=chance.choice([None, step])),
        TurnCompleted(turn=turn, agent_session_id=f"s{turn}"),
        TurnFailed(turn=turn),
        StepStarted(step=step, attempt=chance.randrange(1, 3)),
        StepCompleted(
            step=step,
            cache_hit=chance.random() < 0.5,
            cache_key="k",
            output={"files": {path: "a" * 64}},
        ),
        StepFailed(step=step),
        ToolCalled(tool="edit", call_id=call),
        ToolReturned(call_id=call),
        FileWritten(path=path, bytes=9),
        FileRead(path=path),
        Message(text=f"hello 100% {step}"),
        SubprocessOutput(text="line"),
        ApprovalRequested(approval_id="ap", summary="may I"),
        ApprovalGranted(approval_id="ap"),
        ArtifactStored(artifact_id=call, name=f"{call}.txt", sha256="0" * 64, size_bytes=turn, step=step),
        TokenUsage(
            model=chance.choice([None, "m1", "m2"]),
            provider=chance.choice([None, "p"]),
            input_tokens=chance.randrange(99),
            output_tokens=chance.randrange(9),
            cost_micros=chance.choice([None, chance.randrange(9_999)]),
        ),
        Unknown(type="from_the_future", data=msgspec.Raw(b'{"who":"knows"}')),
    ]
    return chance.choice(events)


async def write_some(log: SqliteLog, chance: random.Random) -> None:
    """One append to one of five runs; the same chance writes the same events."""
    run_id = f"r_{chance.randrange(5)}"
    last = await log.last(run_id)
    choices: list[Event] = [RunStarted(pid=1), RunPaused(), RunResumed(), Message(text="m"), TokenUsage(cost_micros=3)]
    events = [chance.choice(choices) for _ in range(chance.randrange(1, 12))]
    if last is None:
        events.insert(0, RunQueued())
    new = [
        NewEvent(
            id=f"00000000-0000-4000-8000-{chance.getrandbits(48):012x}",
            type=event_type(event),
            data=encode_data(event),
            at_us=1_700_000_000_000_000,
            tenant="default",
            actor="system",
        )
        for event in events
    ]
    await log.append(run_id, new, expected=0 if last is None else last.position)


async def write_histories(
    log: SqliteLog, chance: random.Random, *, appends: int, runs: int = 10, redactions: bool = False
) -> None:
    """Runs `r_000` … of tenant `default` where the number is even, else of `other`."""
    at_us, ids = CREATED_US, dict[str, str]()
    for _ in range(appends):
        number = chance.randrange(runs)
        run_id, tenant = f"r_{number:03}", ("default", "other")[number % 2]
        last = await log.last(run_id)
        events: list[Event | Unknown] = [random_event(chance) for _ in range(chance.randrange(1, 6))]
        if last is None:
            events.insert(0, RunQueued(title=f"run {number}", workflow=chance.choice(["build", "ship", None])))
        elif redactions and chance.random() < 0.1:
            events.append(EventRedacted(version=chance.randrange(1, last.version + 1)))
        # Reporters' clocks go back now and then.
        at_us += chance.randrange(-1_000, 50_000_000)
        new = [
            new_event(event, at_us=at_us, tenant=tenant, actor=chance.choice(ACTORS),
                      cause=ids.get(run_id) if chance.random() < 0.3 else None)
            for event in events
        ]  # fmt: skip
        ids[run_id] = new[-1].id
        await log.append(run_id, new, expected=0 if last is None else last.position)
        if chance.random() < 0.1:
            refused = CommandRefused(run_id=run_id, refused="cancel", reason="it is over")
            system = await log.last(SYSTEM_STREAM)
            new_one = new_event(refused, at_us=at_us, tenant=tenant, actor="user:bob")
            await log.append(SYSTEM_STREAM, [new_one], expected=0 if system is None else system.position)


async def write_courses(log: SqliteLog, chance: random.Random, *, appends: int, runs: int = 12) -> None:
    """Runs as `write_histories` has them, whose status, labels and units change."""
    at_us = CREATED_US + chance.randrange(10**9)
    for _ in range(appends):
        number = chance.randrange(runs)
        run_id, tenant = f"r_{number:03}", ("default", "other")[number % 2]
        events: list[Event] = [random_change(chance) for _ in range(chance.randrange(1, 6))]
        if await log.last(run_id) is None:
            events.insert(0, RunQueued(title=f"run {number} 100%", workflow=chance.choice(["build", None])))
        if chance.random() < 0.1:
            await append(log, SYSTEM_STREAM, Anchor(position=1, digest="d"), tenant="*")
        # Reporters' clocks go back now and then.
        at_us += chance.randrange(-1_000, 5_000_000)
        await append(log, run_id, *events, at_us=at_us, tenant=tenant)


def random_change(chance: random.Random) -> Event:
    return chance.choice(
        list[Event](
            [
                RunClaimed(worker="w1", claim=chance.randrange(9)),
                RunStarted(worker="w1", pid=7),
                RunPaused(waiting_on="timer"),
                RunResumed(),
                CancelRequested(),
                RunCancelled(),
                RunStopped(reason_code="USER_INTERRUPT"),
                RunCompleted(reason_code="EXIT_ZERO"),
                RunFailed(reason_code="EXIT_NONZERO"),
                LabelChanged(key=chance.choice(["team", "50%", "a_b"]), value=chance.choice([None, "core", "x\\y"])),
                TokenUsage(
                    input_tokens=chance.randrange(99), cost_micros=chance.choice([None, chance.randrange(9_999)])
                ),
                Message(text="hello"),
                SubprocessOutput(text="line"),
                UnitsPlanned(total=5),
                UnitStarted(unit="u1"),
                UnitApproved(unit="u1"),
            ]
        )
    )


def all_events(data: Path) -> list[Recorded]:
    """The whole log, the system stream too, in order."""
    reader = open_reader(data)
    try:
        events: list[Recorded] = []
        while page := read_page(reader, after=events[-1].position if events else 0).events:
            events += page
        return events
    finally:
        reader.close()
