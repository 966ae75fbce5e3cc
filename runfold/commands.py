"""Every wish that can be put to a run; `runfold.run.decide` grants it with events, or refuses it."""

from typing import Literal, TypeAlias

import msgspec

from runfold.events import (
    Completion,
    CostEstimated,
    Driver,
    Event,
    Failure,
    Json,
    Receipt,
    RunQueued,
    StepCompleted,
    StepSkipped,
    TurnEnded,
    TurnStarted,
    Unknown,
)

Reused: TypeAlias = StepCompleted | StepSkipped
"""What an earlier run did, and a retry of it does not do again."""


class _Command(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Queue(_Command, frozen=True):
    """Open a run for the workers of a server."""

    queued: RunQueued
    reused: tuple[Reused, ...] = ()
    estimated: CostEstimated | None = None


class StartHere(_Command, frozen=True):
    """Open, claim and start a run in one append, so that no server can take it."""

    queued: RunQueued
    worker: str
    reused: tuple[Reused, ...] = ()
    estimated: CostEstimated | None = None
    host: str = ""
    pid: int | None = None
    pid_started_at: str | None = None
    boot_id: str | None = None


class OpenReported(_Command, frozen=True):
    """Open a run that another program, or a person, drives."""

    queued: RunQueued
    reused: tuple[Reused, ...] = ()
    estimated: CostEstimated | None = None


class Budget(_Command, frozen=True):
    """What a limit of a workflow, a tenant or a day has left for everybody: read by whoever starts something."""

    limit: str
    scope: Literal["workflow", "tenant", "day"]
    threshold: float
    actual: float
    on_exceed: Literal["warn", "ask", "stop"] = "stop"
    on_unknown_price: Literal["warn", "ask", "stop"] = "stop"


class Claim(_Command, frozen=True):
    worker: str
    host: str = ""


class Start(_Command, frozen=True):
    claim: int
    worker: str = ""
    pid: int | None = None
    pid_started_at: str | None = None
    boot_id: str | None = None


class StartTurn(_Command, frozen=True):
    """Where a limit is in the way, the answer is that limit's events and no `turn_started`."""

    claim: int
    started: TurnStarted
    budgets: tuple[Budget, ...] = ()


class EndTurn(_Command, frozen=True):
    claim: int
    ended: TurnEnded


class Observe(_Command, frozen=True):
    """Telemetry of a run: what its program did, or what its reporter says."""

    events: tuple[Event | Unknown, ...]
    claim: int | None = None
    """The worker's claim; None from a reporter or the driven program itself."""


class Pause(_Command, frozen=True):
    """At the turn's end; `now`: the turn is stopped where it is."""

    reason: str = ""
    now: bool = False


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


class CheckLimits(_Command, frozen=True):
    """Time has passed, or others have spent: end what is over its limit, expire what nobody answered."""

    budgets: tuple[Budget, ...] = ()


class RequestApproval(_Command, frozen=True):
    """Ask a person, and wait: the run pauses until the answer."""

    claim: int | None = None
    approval_id: str = ""
    kind: str = ""
    summary: str = ""
    amount_micros: int | None = None
    digest: str | None = None
    expires_at: str | None = None


class Grant(_Command, frozen=True):
    """`digest`, where given, is of what the person saw; `amount_micros` is the new limit of the cost."""

    approval_id: str
    comment: str = ""
    amount_micros: int | None = None
    limits: dict[str, Json] = {}
    digest: str | None = None
    driver: Driver | None = None


class Deny(_Command, frozen=True):
    approval_id: str
    comment: str = ""


class Expire(_Command, frozen=True):
    approval_id: str


class StartStep(_Command, frozen=True):
    """A worker's claim, or none from a person or a program. Limits answer as in StartTurn."""

    step: str
    claim: int | None = None
    skill: str | None = None
    input: Json = None
    metadata: dict[str, Json] = {}
    budgets: tuple[Budget, ...] = ()


class CompleteStep(_Command, frozen=True):
    step: str
    claim: int | None = None
    output: Json = None
    cache_hit: bool = False
    cache_key: str | None = None
    metadata: dict[str, Json] = {}


class FailStep(_Command, frozen=True):
    step: str
    claim: int | None = None
    error: Failure = Failure()
    output: Json = None
    metadata: dict[str, Json] = {}


class SkipStep(_Command, frozen=True):
    step: str
    reason: str = ""


class MarkRerun(_Command, frozen=True):
    step: str
    reason: str = ""


class ResetStep(_Command, frozen=True):
    step: str
    reason: str = ""


class ResetAll(_Command, frozen=True):
    reason: str = ""


class Annotate(_Command, frozen=True):
    """What people write on a run, whatever its status: None takes a label away, and leaves the title as it is."""

    title: str | None = None
    labels: dict[str, str | None] = {}
    note: str = ""


Command: TypeAlias = (
    Queue | StartHere | OpenReported | Claim | Start | StartTurn | EndTurn | Observe | Pause | Paused | Resume
    | Cancel | Cancelled | Complete | Fail | Stop | ReleaseClaim | LoseClaim | CheckLimits
    | RequestApproval | Grant | Deny | Expire
    | StartStep | CompleteStep | FailStep | SkipStep | MarkRerun | ResetStep | ResetAll
    | Annotate
)  # fmt: skip
