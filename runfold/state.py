"""What a run is at one moment: the fold of its events, immutable, bounded in size however long the run gets."""

from typing import Literal

import msgspec

from runfold.events import Completion, Driver, Failure, Json, StepSpec

Status = Literal[
    "queued", "running", "pausing", "paused", "cancelling", "cancelled", "stopping", "stopped", "completed", "failed"
]
FINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
RESTING: frozenset[str] = FINAL | {"stopped"}


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens


class Tests(msgspec.Struct, frozen=True, kw_only=True):
    __test__ = False
    runs: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0


class Units(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of units; `open` maps the unit at work to its attempt."""

    started: int = 0
    approved: int = 0
    rejected: int = 0
    failed: int = 0
    attempts: int = 0
    retried: int = 0
    current: str | None = None
    current_index: int | None = None
    current_attempt: int = 0
    action: str | None = None


class OpenStep(msgspec.Struct, frozen=True, kw_only=True):
    step: str
    attempt: int = 1


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
    grace_seconds: float = 5.0
    on_lost: Literal["fail", "resume"] = "fail"
    lease_seconds: float | None = None
    retry_of: str | None = None
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
    turn_open: bool = False
    turns: int = 0
    agent_session_id: str | None = None
    """The agent's own name for the work of the last turn that gave one."""
    open_tools: dict[str, str] = {}
    """Call id → tool name of calls that have not returned."""
    open_steps: tuple[OpenStep, ...] = ()
    open_approvals: tuple[str, ...] = ()
    waiting_on: str | None = None
    stop_code: str = ""
    """The reason code of the limit that asked the run to stop."""
    tokens: Tokens = Tokens()
    cost_micros: int | None = None
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
