"""Every rule of a run: a command is granted with events, or refused with an error that says what to do next."""

from typing import Any, NoReturn, TypeAlias, assert_never

from msgspec.structs import replace

from runfold.annotating import annotate
from runfold.approvals import ask_to_start, deny, expire, expire_overdue, grant, request
from runfold.closing import close_tools
from runfold.commands import (
    Annotate,
    Cancel,
    Cancelled,
    CheckLimits,
    Claim,
    Command,
    Complete,
    CompleteStep,
    Deny,
    EndTurn,
    Expire,
    Fail,
    FailStep,
    Grant,
    LoseClaim,
    MarkRerun,
    Observe,
    OpenReported,
    Pause,
    Paused,
    Queue,
    ReleaseClaim,
    RequestApproval,
    ResetAll,
    ResetStep,
    Resume,
    SkipStep,
    Start,
    StartHere,
    StartStep,
    StartTurn,
    Stop,
)
from runfold.controlling import cancel, cancelled, pause, paused, resume
from runfold.ending import check_claim, complete, fail, lose_claim, release_claim, stop
from runfold.errors import AlreadyFinal, BadRequest, NotAllowed, NotFound
from runfold.events import (
    Event,
    RunClaimed,
    RunPaused,
    RunQueued,
    RunStarted,
    TurnFailed,
    Unknown,
)
from runfold.evolve import CONTEXT_KEYS_MAX, LABELS_MAX, evolve
from runfold.graph import check_graph
from runfold.limiting import before_start, fail_at_limit, stop_at_budgets, with_limits
from runfold.limits import parse_limits
from runfold.observing import check_no_turn, check_turn, observe
from runfold.state import Run
from runfold.steps import StepCommand, check_step, decide_step

Events: TypeAlias = tuple[Event | Unknown, ...]


def decide(run: Run, command: Command, now_us: int) -> Events:
    """The events that grant the command; `()` when it was granted already.

    Raises BadRequest, NotFound, NotAllowed, Fenced, AlreadyFinal.
    """
    if isinstance(command, Observe):
        # Nearly all that is ever wished is this, so it is not asked first whether it is anything else.
        _check_known(run)
        if run.is_final:
            _refuse_final(run, command)
        return with_limits(run, _observe(run, command, now_us), now_us)
    match command:
        case Queue() | StartHere() | OpenReported():
            _check_opening(command.queued)
            return _with_question(run, command, _open(run, command), now_us)
        case Annotate():
            _check_known(run)
            return annotate(run, command)
        case Cancel() | Cancelled() if run.status == "cancelled":
            # A second Cancel is a wish already granted: answer with silence, not an error, so retries are safe.
            return ()
        case _:
            _check_known(run)
            if run.is_final:
                _refuse_final(run, command)
            return with_limits(run, _decide_open(run, command, now_us), now_us)


_Later: TypeAlias = (
    Claim | Start | StartTurn | EndTurn | Pause | Paused | Resume | Cancel | Cancelled | Complete | Fail
    | Stop | ReleaseClaim | LoseClaim | CheckLimits | RequestApproval | Grant | Deny | Expire | StepCommand
)  # fmt: skip


def _decide_open(run: Run, command: _Later, now_us: int) -> Events:
    match command:
        case Claim():
            return _claim(run, command)
        case Start():
            return _start(run, command)
        case StartTurn():
            return _start_turn(run, command, now_us)
        case EndTurn():
            return _end_turn(run, command, now_us)
        case Pause():
            return pause(run, command)
        case Paused():
            return paused(run, command, now_us)
        case Resume():
            return resume(run, command)
        case Cancel():
            return cancel(run, command)
        case Cancelled():
            return cancelled(run, command)
        case Complete():
            return complete(run, command)
        case Fail():
            return fail(run, command)
        case Stop():
            return stop(run, command)
        case ReleaseClaim():
            return release_claim(run, command)
        case LoseClaim():
            return lose_claim(run, command)
        case CheckLimits():
            return expire_overdue(run, now_us) or stop_at_budgets(run, command.budgets, now_us)
        case RequestApproval():
            return request(run, command, now_us)
        case Grant():
            return grant(run, command, now_us)
        case Deny():
            return deny(run, command, now_us)
        case Expire():
            return expire(run, command, now_us)
        case StartStep() | CompleteStep() | FailStep() | SkipStep() | MarkRerun() | ResetStep() | ResetAll():
            return _decide_step(run, command, now_us)
        case _:
            assert_never(command)


def _observe(run: Run, command: Observe, now_us: int) -> Events:
    if command.claim is not None:
        check_claim(run, command.claim)
    return observe(run, command.events, by_worker=command.claim is not None, now_us=now_us)


def _check_known(run: Run) -> None:
    if run.status is None:
        raise NotFound(f"run `{run.run_id}` is not known", hint="`runfold ps --all` lists the runs", run_id=run.run_id)


def _refuse_final(run: Run, command: _Later | Observe) -> NoReturn:
    step = f" --from {command.step}" if isinstance(command, MarkRerun | ResetStep | StartStep) else ""
    raise AlreadyFinal(
        f"run `{run.run_id}` is already {run.status}",
        hint=f"`runfold retry {run.run_id}{step}` starts a new attempt",
        run_id=run.run_id,
    )


def _check_opening(queued: RunQueued) -> None:
    check_graph(queued.steps)
    parse_limits(queued.limits)
    for step in queued.steps:
        parse_limits(step.limits, scope=f"step:{step.id}")
    if len(queued.context) > CONTEXT_KEYS_MAX or len(queued.labels) > LABELS_MAX:
        raise BadRequest(
            f"a run takes {CONTEXT_KEYS_MAX} context keys and {LABELS_MAX} labels", hint="put the rest into the payload"
        )


def _decide_step(run: Run, command: StepCommand, now_us: int) -> Events:
    events = decide_step(run, command, now_us)
    if isinstance(command, StartStep):
        # Refused first, stopped by a limit second: what may not start uses nothing up.
        said, may_start = before_start(run, command.budgets, now_us, step=command.step)
        return (*said, *events) if may_start else said
    return events


def _open(run: Run, command: Queue | StartHere | OpenReported) -> Events:
    if run.status is not None:
        raise NotAllowed(
            f"run `{run.run_id}` exists already and is {run.status}",
            hint=f"`runfold status {run.run_id}` shows it",
            run_id=run.run_id,
        )
    match command:
        case Queue():
            return (_driven_by(command.queued, "queue"), *command.reused)
        case StartHere():
            if command.queued.approval is not None:
                # Nobody drives what waits: this terminal claims it once it may start.
                return (_driven_by(command.queued, "here"), *command.reused)
            claimed = RunClaimed(worker=command.worker, host=command.host, claim=run.claim + 1)
            started = RunStarted(
                worker=command.worker,
                pid=command.pid,
                pid_started_at=command.pid_started_at,
                boot_id=command.boot_id,
            )
            return (_driven_by(command.queued, "here"), claimed, started, *command.reused)
        case OpenReported():
            imported = command.queued.driver == "imported"
            opened = command.queued if imported else _driven_by(command.queued, "reported")
            return (opened, RunStarted(), *command.reused)
        case _:
            assert_never(command)


def _with_question(run: Run, command: Queue | StartHere | OpenReported, opened: Events, now_us: int) -> Events:
    """What it may cost, and the question of a run that starts only once a person has said yes."""
    said = () if command.estimated is None else (command.estimated,)
    if command.queued.approval is None:
        return (*opened, *said)
    asked = ask_to_start(run.run_id, command.queued, command.estimated, now_us)
    waits = RunPaused(reason=asked.summary, waiting_on=f"approval:{asked.approval_id}")
    return (*opened, *said, asked, waits)


def _driven_by(queued: RunQueued, driver: Any) -> RunQueued:
    return queued if queued.driver == driver else replace(queued, driver=driver)


def _claim(run: Run, command: Claim) -> Events:
    if run.worker:
        raise NotAllowed(
            f"run `{run.run_id}` is claimed by {run.worker}", hint="exactly one worker drives a run", run_id=run.run_id
        )
    if run.status != "queued" or not run.is_driven:
        state = run.status if run.is_driven else run.driver
        raise NotAllowed(
            f"run `{run.run_id}` is {state} and cannot be claimed", hint="only queued runs can be", run_id=run.run_id
        )
    return (RunClaimed(worker=command.worker, host=command.host, claim=run.claim + 1),)


def _start(run: Run, command: Start) -> Events:
    check_claim(run, command.claim)
    if run.status == "running":
        # Resumed in a terminal, it runs already: only the new process is news.
        if command.pid is None or command.pid == run.pid:
            return ()
    elif run.status != "queued":
        raise NotAllowed(
            f"run `{run.run_id}` is {run.status} and cannot start",
            hint=f"`runfold status {run.run_id}` says why",
            run_id=run.run_id,
        )
    return (
        RunStarted(
            worker=command.worker or run.worker,
            pid=command.pid,
            pid_started_at=command.pid_started_at,
            boot_id=command.boot_id,
        ),
    )


def _start_turn(run: Run, command: StartTurn, now_us: int) -> Events:
    check_claim(run, command.claim)
    if run.status != "running":
        raise NotAllowed(
            f"run `{run.run_id}` is {run.status}: no turn can start",
            hint="start it first" if run.status == "queued" else f"`runfold resume {run.run_id}` once it is paused",
            run_id=run.run_id,
        )
    check_no_turn(run, command.started.step)
    check_step(run, command.started.step)
    said, may_start = before_start(run, command.budgets, now_us, turn=True)
    return (*said, command.started) if may_start else said


def _end_turn(run: Run, command: EndTurn, now_us: int) -> Events:
    check_claim(run, command.claim)
    check_turn(run, command.ended.turn)
    ended = command.ended
    opened = next(it for it in run.open_turns if it.turn == ended.turn)
    if ended.step is None and opened.step is not None:
        ended = replace(ended, step=opened.step, attempt=opened.attempt)
    if isinstance(ended, TurnFailed) and run.last_agent_error is not None and ended.error.code in ("", "EXIT_NONZERO"):
        # What the program itself said about its failure tells more than its exit code.
        ended = replace(ended, error=run.last_agent_error)
    # A call belongs to a turn; with others still open nobody can tell whose it is.
    tools = close_tools(run) if len(run.open_turns) == 1 else ()
    events: Events = (*tools, ended)
    if ended.step is None:
        return events
    return (*events, *fail_at_limit(evolve(run, ended, at_us=now_us), ended.step))
