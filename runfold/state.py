"""What a run is at one moment: the fold of its events, immutable, bounded in size however long the run gets."""

from typing import Literal

import msgspec

from runfold.events import Completion, CostEstimated, Driver, Failure, Json, StepSpec
from runfold.step_states import StepState

Status = Literal[
    "queued", "running", "pausing", "paused", "cancelling", "cancelled", "stopping", "stopped", "completed", "failed"
]
FINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
RESTING: frozenset[str] = FINAL | {"stopped"}
START = "start"  # The kind of the question before a run starts.


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens


class ModelUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one model was used for; `unpriced` counts usage that is in no cost."""

    tokens: int = 0
    cost_micros: int | None = None
    unpriced: int = 0


class Tests(msgspec.Struct, frozen=True, kw_only=True):
    __test__ = False
    runs: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0


class Units(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of verdicts, and what each unit's last one was where it is not approved."""

    started: int = 0
    approved: int = 0
    rejected: int = 0
    failed: int = 0
    lost: dict[str, Literal["rejected", "failed"]] = {}
    """Units whose last word is a rejection or a failure: another attempt takes them out again."""
    lost_more: int = 0
    """Those that no longer fit into `lost`."""
    attempts: int = 0
    retried: int = 0
    fails_in_row: int = 0
    first_at_us: int | None = None
    last_at_us: int | None = None
    """From the first start to the last verdict: what the remaining time is estimated from."""
    current: str | None = None
    current_index: int | None = None
    current_attempt: int = 0
    action: str | None = None


class OpenStep(msgspec.Struct, frozen=True, kw_only=True):
    step: str
    attempt: int = 1


class OpenTurn(msgspec.Struct, frozen=True, kw_only=True):
    turn: int
    step: str | None = None
    attempt: int = 1


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A question to a person, and how it was answered."""

    status: Literal["pending", "granted", "denied", "expired"] = "pending"
    kind: str = ""
    summary: str = ""
    amount_micros: int | None = None
    digest: str | None = None
    expires_at: str | None = None
    requested_at_us: int = 0
    answered_at_us: int | None = None
    comment: str = ""


class LimitHit(msgspec.Struct, frozen=True, kw_only=True):
    """The limit that asked the run, or a step, to stop."""

    limit: str
    scope: str
    threshold: float
    actual: float
    on_exceed: Literal["warn", "ask", "stop"]
    reason: str = ""


class Repeats(msgspec.Struct, frozen=True, kw_only=True):
    """How often in a row the agent did the very same with the very same result: both in short, and the count."""

    call_id: str = ""
    call: str = ""
    """The last call, which may not have returned yet."""
    tool: str = ""
    tools: int = 0
    command: str = ""
    commands: int = 0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is None before the first event. Times are UTC microseconds. `version` counts the run's events."""

    run_id: str
    tenant: str = "default"
    version: int = 0
    status: Status | None = None
    reason_code: str = ""
    message: str = ""
    driver: Driver = "queue"
    workflow: str | None = None
    title: str = ""
    payload: Json = None
    context: dict[str, Json] = {}
    labels: dict[str, str] = {}
    command: tuple[str, ...] = ()
    cwd: str | None = None
    prompt: str | None = None
    format: str | None = None
    model: str | None = None
    limits: dict[str, Json] = {}
    steps: tuple[StepSpec, ...] = ()
    unit_name: str = "unit"
    units_total: int | None = None
    units: Units = Units()
    max_turns: int = 1
    cache: bool = True
    estimate: CostEstimated | None = None
    """What was said last of what the run will cost."""
    grace_seconds: float = 5.0
    on_lost: Literal["fail", "resume"] = "fail"
    lease_seconds: float | None = None
    retry_of: str | None = None
    from_step: str | None = None
    resumed_from: str | None = None
    parent_run_id: str | None = None
    claim: int = 0
    """The highest claim number ever given; a worker holds it while `worker` is not empty."""
    worker: str = ""
    host: str = ""
    pid: int | None = None
    boot_id: str | None = None
    recoveries: int = 0
    started: bool = False
    turn: int = 0
    """The last turn that started."""
    open_turns: tuple[OpenTurn, ...] = ()
    turns: int = 0
    turns_cut: int = 0
    """Of these, those that were cut short: what they were to do is done by another one."""
    agent_session_id: str | None = None
    """The agent's own name for the work of the last turn that gave one."""
    open_tools: dict[str, str] = {}
    """Call id → tool name of calls that have not returned."""
    open_steps: tuple[OpenStep, ...] = ()
    step_states: dict[str, StepState] = {}
    """Of every step that anything was said about; the others are pending."""
    approvals: dict[str, Approval] = {}
    """The open ones, and the last ones that were answered."""
    approvals_made: int = 0
    waiting_on: str | None = None
    hit: LimitHit | None = None
    """The limit that asked the run to stop or to ask, until it is resumed."""
    step_hits: dict[str, LimitHit] = {}
    told: dict[str, float] = {}
    """Limits that were told already: `scope:limit:warned` or `…:exceeded` → the threshold it was."""
    fails_in_row: int = 0
    """Turns and steps that failed, one after the other."""
    unpriced: int = 0
    """Usage whose price nobody knew."""
    repeats: Repeats = Repeats()
    active_us: int = 0
    active_since_us: int | None = None
    """Time in which the run went on: what rests or waits for a person takes none."""
    stop_condition: str = ""
    stop_threshold: float | None = None
    stop_actual: float | None = None
    tokens: Tokens = Tokens()
    cost_micros: int | None = None
    models: dict[str, ModelUse] = {}
    """By the model's name; empty where nobody said it."""
    files: int = 0
    tests: Tests = Tests()
    completion: Completion | None = None
    error: Failure | None = None
    last_agent_error: Failure | None = None
    exit_code: int | None = None
    created_at_us: int = 0
    started_at_us: int | None = None
    completed_at_us: int | None = None
    updated_at_us: int = 0

    @property
    def turn_open(self) -> bool:
        return bool(self.open_turns)

    @property
    def open_approvals(self) -> tuple[str, ...]:
        return tuple(name for name, approval in self.approvals.items() if approval.status == "pending")

    @property
    def is_refused(self) -> bool:
        """Whether somebody, or the time, has said no to its start."""
        asked = [it.status for it in self.approvals.values() if it.kind == START]
        return bool(asked) and "granted" not in asked and "pending" not in asked

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def is_resting(self) -> bool:
        return self.status in RESTING

    @property
    def is_driven(self) -> bool:
        return self.driver in ("queue", "here")


def new_run(run_id: str, tenant: str = "default") -> Run:
    """The run before its first event."""
    return Run(run_id=run_id, tenant=tenant)
