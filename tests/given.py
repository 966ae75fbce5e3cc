"""A run as the commands that were put to it: the given of given, when, then."""

from typing import Any

from runfold import commands as c
from runfold import events as e
from runfold.decide import decide
from runfold.evolve import evolve
from runfold.state import Run, new_run

SECOND_US = 1_000_000


def after(*commands: Any, run: Run | None = None, now_us: int | None = None) -> Run:
    """The run after these commands, one second apart, or all at `now_us`."""
    run = run or new_run("r_x")
    for command in commands:
        at_us = run.updated_at_us + SECOND_US if now_us is None else now_us
        for event in decide(run, command, at_us):
            run = evolve(run, event, at_us=at_us)
    return run


def when(run: Run, command: Any, *, now_us: int | None = None) -> tuple[Any, ...]:
    """The events that the command becomes."""
    return decide(run, command, run.updated_at_us + SECOND_US if now_us is None else now_us)


def names(run: Run, command: Any, *, now_us: int | None = None) -> list[str]:
    return [e.event_type(event) for event in when(run, command, now_us=now_us)]


def here(**queued: Any) -> c.StartHere:
    return c.StartHere(queued=e.RunQueued(**queued), worker="w", host="h", pid=7, boot_id="b")


def reported(**queued: Any) -> c.OpenReported:
    return c.OpenReported(queued=e.RunQueued(**queued))


def graph(*edges: str) -> tuple[e.StepSpec, ...]:
    """`"b: a"` is a step `b` that needs `a`."""
    return tuple(
        e.StepSpec(id=name.strip(), needs=tuple(needs.split()))
        for name, _, needs in (it.partition(":") for it in edges)
    )


def done(*steps: str) -> tuple[Any, ...]:
    """The commands that start and complete these steps, one after the other."""
    return tuple(command for step in steps for command in (c.StartStep(step=step), c.CompleteStep(step=step)))


def observe(*events: Any, claim: int | None = None) -> c.Observe:
    return c.Observe(events=events, claim=claim)
