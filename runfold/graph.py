"""The dependency graph of a run's steps: checked once, then asked what is before, after and ready."""

from collections.abc import Collection, Mapping, Sequence

from runfold.errors import BadRequest
from runfold.events import StepSpec

STEPS_MAX = 2_000  # A run's state carries every step.
NEEDS_MAX = 20_000
ID_CHARACTERS_MAX = 200


def check_graph(steps: Sequence[StepSpec]) -> None:
    """Raises BadRequest naming the fault and where it is: a bad or doubled id, an unknown need, a cycle."""
    if len(steps) > STEPS_MAX or sum(len(step.needs) for step in steps) > NEEDS_MAX:
        raise BadRequest(
            f"the graph has more than {STEPS_MAX} steps or {NEEDS_MAX} needs", hint="split the work into several runs"
        )
    first: dict[str, int] = {}
    for index, step in enumerate(steps):
        if not step.id or len(step.id) > ID_CHARACTERS_MAX:
            raise BadRequest(
                f"steps[{index}].id is empty or longer than {ID_CHARACTERS_MAX} characters", hint="name the step"
            )
        if step.id in first:
            raise BadRequest(
                f"steps[{index}].id `{step.id}` is also the id of steps[{first[step.id]}]", hint="rename one of them"
            )
        first[step.id] = index
    for index, step in enumerate(steps):
        for place, need in enumerate(step.needs):
            if need not in first:
                raise BadRequest(
                    f"steps[{index}].needs[{place}]: step `{step.id}` needs `{need[:80]}`, which is no step",
                    hint=f"the steps are: {', '.join(list(first)[:10])}",
                )
    if cycle := find_cycle(steps):
        raise BadRequest(
            f"steps[{first[cycle[0]]}].needs: the steps wait for each other: {' -> '.join(cycle)}",
            hint="remove one of these needs",
        )


def find_cycle(steps: Sequence[StepSpec]) -> tuple[str, ...]:
    """One cycle as a path that ends where it began, each step before what it needs; `()` where there is none."""
    needs = {step.id: step.needs for step in steps}
    left = {name: len(set(wanted)) for name, wanted in needs.items()}  # A need named twice is one need.
    dependents = _dependents(steps)
    free = [name for name, count in left.items() if count == 0]
    while free:
        for name in dependents.get(free.pop(), ()):
            left[name] -= 1
            if left[name] == 0:
                free.append(name)
    at = next((name for name, count in left.items() if count), None)
    path: dict[str, None] = {}
    while at is not None and at not in path:
        # Whoever is left waits for another who is left, so the walk must meet itself.
        path[at] = None
        at = next(need for need in needs[at] if left.get(need))
    if at is None:
        return ()
    walked = list(path)
    return (*walked[walked.index(at) :], at)


def downstream(steps: Sequence[StepSpec], step: str) -> tuple[str, ...]:
    """Every step that rests on this one, near or far, in the graph's own order."""
    dependents = _dependents(steps)
    reached = _reach(step, dependents)
    return tuple(spec.id for spec in steps if spec.id in reached)


def upstream(steps: Sequence[StepSpec], step: str) -> frozenset[str]:
    """Every step that this one rests on, near or far."""
    return frozenset(_reach(step, {spec.id: spec.needs for spec in steps}))


def find_step(steps: Sequence[StepSpec], step: str) -> StepSpec | None:
    for spec in steps:
        if spec.id == step:
            return spec
    return None


def _dependents(steps: Sequence[StepSpec]) -> dict[str, list[str]]:
    dependents: dict[str, list[str]] = {}
    for spec in steps:
        for need in dict.fromkeys(spec.needs):
            dependents.setdefault(need, []).append(spec.id)
    return dependents


def _reach(start: str, following: Mapping[str, Collection[str]]) -> set[str]:
    reached: set[str] = set()
    left = [start]
    while left:
        for name in following.get(left.pop(), ()):
            if name not in reached:
                reached.add(name)
                left.append(name)
    reached.discard(start)
    return reached
