"""Every wish that can be put to a run; `runfold.run.decide` grants it with events, or refuses it."""

from typing import TypeAlias

import msgspec

from runfold.events import (
    Completion,
    Driver,
    Event,
    Failure,
    Json,
    Receipt,
    RunQueued,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Unknown,
)


class _Command(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Queue(_Command, frozen=True):
    """Open a run for the workers of a server."""

    queued: RunQueued


class StartHere(_Command, frozen=True):
    """Open, claim and start a run in one append, so that no server can take it."""

    queued: RunQueued
    worker: str
    host: str = ""
    pid: int | None = None
    boot_id: str | None = None


class OpenReported(_Command, frozen=True):
    """Open a run that another program, or a person, drives."""

    queued: RunQueued


class Claim(_Command, frozen=True):
    worker: str
    host: str = ""


class Start(_Command, frozen=True):
    claim: int
    worker: str = ""
    pid: int | None = None
    boot_id: str | None = None


class StartTurn(_Command, frozen=True):
    claim: int
    started: TurnStarted


class EndTurn(_Command, frozen=True):
    claim: int
    ended: TurnCompleted | TurnFailed | TurnCancelled


class Observe(_Command, frozen=True):
    """Telemetry of a run: what its program did, or what its reporter says."""

    events: tuple[Event | Unknown, ...]
    claim: int | None = None
    """The worker's claim; None from a reporter or the driven program itself."""


class Pause(_Command, frozen=True):
    reason: str = ""


class Paused(_Command, frozen=True):
    """The driver says that the run now pauses."""

    claim: int | None = None
    reason: str = ""
    waiting_on: str | None = None


class Resume(_Command, frozen=True):
    reason: str = ""
    driver: Driver | None = None
    limits: dict[str, Json] = {}
    worker: str = ""
    """With driver `here`: claim again in the same append."""
    host: str = ""


class Cancel(_Command, frozen=True):
    reason: str = ""


class Cancelled(_Command, frozen=True):
    """The driver says that nothing of the run is left."""

    claim: int | None = None
    receipt: Receipt | None = None


class Complete(_Command, frozen=True):
    claim: int | None = None
    reason_code: str = "REPORTED"
    message: str = ""
    exit_code: int | None = None
    completion: Completion | None = None


class Fail(_Command, frozen=True):
    claim: int | None = None
    reason_code: str = "SYS_FAILED"
    error: Failure = Failure()


class Stop(_Command, frozen=True):
    """Rest at a limit or at the user's interrupt; a stopped run can be resumed."""

    claim: int | None = None
    reason_code: str = "USER_INTERRUPT"
    condition: str = ""
    threshold: float | None = None
    actual: float | None = None
    message: str = ""


class ReleaseClaim(_Command, frozen=True):
    claim: int
    reason: str = ""


class LoseClaim(_Command, frozen=True):
    """The claim's lease has run out: requeue or fail, as the run was asked to."""

    claim: int
    reason: str = ""


class AddNote(_Command, frozen=True):
    text: str


class ChangeLabel(_Command, frozen=True):
    key: str
    value: str | None = None


Command: TypeAlias = (
    Queue | StartHere | OpenReported | Claim | Start | StartTurn | EndTurn | Observe | Pause | Paused | Resume
    | Cancel | Cancelled | Complete | Fail | Stop | ReleaseClaim | LoseClaim | AddNote | ChangeLabel
)  # fmt: skip
