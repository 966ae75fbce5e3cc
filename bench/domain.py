"""Measures the fold and the decisions of runs with a thousand steps, in a chain and in a fan."""

import sys
import time
from collections.abc import Callable, Iterator

from bench.scoreboard import Figure, figure, show
from runfold import commands as c
from runfold import events as e
from runfold.decide import decide
from runfold.evolve import evolve
from runfold.markdown import markdown_report
from runfold.snapshot import snapshot
from runfold.state import Run, new_run

ROUNDS = 3
STEPS = 1_000
EVENTS = 100_000


def graph(shape: str) -> tuple[e.StepSpec, ...]:
    needs = [() if n == 0 else (f"s{n - 1}" if shape == "chain" else "s0",) for n in range(STEPS)]
    return tuple(e.StepSpec(id=f"s{n}", needs=needed) for n, needed in enumerate(needs))


def opened(shape: str) -> Run:
    run = new_run("r_bench")
    for event in decide(run, c.OpenReported(queued=e.RunQueued(steps=graph(shape), limits={"cost": 1_000_000})), 0):
        run = evolve(run, event, at_us=0)
    return run


def folded(run: Run) -> Run:
    """One tenth starts and ends steps, the rest is what an agent says meanwhile."""
    others = (e.ToolCalled(tool="ls", call_id="1"), e.ToolReturned(call_id="1"), e.FileWritten(path="a"),
              e.TokenUsage(input_tokens=9, cost_micros=3), e.Message(text="x")) * 4  # fmt: skip
    number = 0
    while number < EVENTS:
        step = f"s{number // 20 % STEPS}"
        for event in (e.StepStarted(step=step), *others[2:], e.StepCompleted(step=step, output={"n": number})):
            run = evolve(run, event, at_us=number)
            number += 1
    return run


def seconds(measured: Callable[[], object]) -> list[float]:
    times: list[float] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        measured()
        times.append(time.perf_counter() - started)
    return times


def measure_shape(shape: str) -> Iterator[Figure]:
    run = opened(shape)
    yield figure(f"fold, steps in a {shape}", "events/s", [EVENTS / took for took in seconds(lambda: folded(run))])
    done = folded(run)
    changed = done
    for event in decide(done, c.MarkRerun(step="s999"), 1):
        changed = evolve(changed, event, at_us=1)
    wishes: dict[str, Callable[[], object]] = {
        "rerun of the first step": lambda: decide(done, c.MarkRerun(step="s0"), 1),
        "start of the last step": lambda: decide(changed, c.StartStep(step="s999"), 1),
        "usage under a limit": lambda: decide(done, c.Observe(events=(e.TokenUsage(cost_micros=1),)), 1),
        "snapshot": lambda: snapshot(done, position=1),
        "Markdown report": lambda: markdown_report(done),
    }
    for name, wish in wishes.items():
        yield figure(f"{name}, steps in a {shape}", "ms", [took * 1_000 for took in seconds(wish)])


def measure() -> Iterator[Figure]:
    for shape in ("chain", "fan"):
        yield from measure_shape(shape)


if __name__ == "__main__":
    sys.exit(show(measure()))
