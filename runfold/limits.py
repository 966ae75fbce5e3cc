"""Stop conditions: what a mapping of limits says, how much of each is used, and which a run or a step has broken."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, cast

import msgspec
from msgspec.structs import replace

from runfold.errors import BadRequest, NotAllowed
from runfold.events import Json
from runfold.state import LimitHit, Repeats, Run
from runfold.step_states import PENDING, StepState
from runfold.units import reject_rate, retry_rate

OnExceed: TypeAlias = Literal["warn", "ask", "stop"]

WARN_AT = 0.8  # Of cost, tokens and time, while there is still something to save.
RATE_SAMPLE_MIN = 4  # A rate of fewer units says nothing yet.
TIME_SECONDS_MAX = 366 * 86_400
LIMITS_MAX = 200

UNITS: dict[str, str] = {
    "cost": "US dollars",
    "tokens": "tokens",
    "time": "seconds",
    "turns": "turns",
    "retry_rate": "a share from 0 to 1",
    "reject_rate": "a share from 0 to 1",
    "consecutive_fails": "failures in a row",
    "attempts": "attempts",
    "stuck_loop": "repetitions in a row",
}
STEP_LIMITS = ("cost", "tokens", "time", "turns", "attempts")
_ALIASES = {"cost_usd": "cost", "wall_time": "time", "max_turns": "turns", "duration": "time"}
_REACHED = frozenset({"cost", "tokens", "time", "consecutive_fails", "stuck_loop"})
"""These are broken where the threshold is reached; the others where it is passed."""
_NUMBER = re.compile(r"\$?(\d{1,15}(?:\.\d{1,9})?)\s*([a-zA-Z%]*)")
_FACTORS: dict[str, dict[str, float]] = {
    "cost": {"": 1, "usd": 1},
    "tokens": {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000},
    "time": {"": 1, "ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400},
    "retry_rate": {"": 1, "%": 0.01},
    "reject_rate": {"": 1, "%": 0.01},
}


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One stop condition; time is in seconds, cost in dollars, a rate is a share."""

    limit: str
    threshold: float
    on_exceed: OnExceed = "stop"
    scope: str = "run"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A limit and how much of it is used; `overshoot` is what was used beyond it."""

    limit: Limit
    actual: float
    is_broken: bool
    overshoot: float = 0.0
    reason: str = ""


def parse_pairs(pairs: Sequence[str]) -> dict[str, Json]:
    """`cost=2.50`, `time=30m:ask`: what stands behind `--limit`, as a mapping. Raises BadRequest."""
    limits: dict[str, Json] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not value.strip():
            raise BadRequest(f"`--limit {pair[:80]}` has no value", hint="write `--limit cost=2.50`")
        limits[name.strip()] = value.strip()
    parse_limits(limits)
    return limits


def parse_limits(limits: Mapping[str, Json], *, scope: str = "run") -> tuple[Limit, ...]:
    """The limits of a mapping: `{"cost": 2.5}`, `{"cost": {"max": "2.50", "on_exceed": "ask"}}`. Raises BadRequest.

    `step:<id>:<limit>` is a limit of a step; `on_unknown_price` says what follows usage without a price.
    """
    if len(limits) > LIMITS_MAX:
        raise BadRequest(f"there are more than {LIMITS_MAX} limits", hint="leave some out")
    return tuple(_parse(name, value, scope) for name, value in limits.items() if not _is_price_rule(name, value))


def with_new(limits: Mapping[str, Json], new: Mapping[str, Json]) -> dict[str, Json]:
    """The limits with others in their place, whichever of its names each was given by."""
    named = {_canonical(name) for name in new}
    return {**{name: value for name, value in limits.items() if _canonical(name) not in named}, **new}


def _canonical(name: str) -> str:
    scope, colon, kind = name.rpartition(":")
    return f"{scope}{colon}{_ALIASES.get(kind, kind)}"


def limits_of(run: Run) -> tuple[Limit, ...]:
    """The run's own limits; what an older log holds and nobody can read is no limit."""
    return _readable(run.limits, "run")


def step_limits_of(run: Run, step: str) -> tuple[Limit, ...]:
    """A step's own limits, and what was given to it later in their place."""
    scope = f"step:{step}"
    own = {it.limit: it for spec in run.steps if spec.id == step for it in _readable(spec.limits, scope)}
    later = {it.limit: it for it in limits_of(run) if it.scope == scope}
    return tuple({**own, **later}.values())


def has_step_limits(run: Run) -> bool:
    return any(spec.limits for spec in run.steps) or any(name.startswith("step:") for name in run.limits)


def measure(run: Run, *, now_us: int) -> tuple[Measured, ...]:
    """Every limit of the run with what is used of it, and the price that nobody knows, where a cost limit stands."""
    measured: list[Measured] = []
    for limit in limits_of(run):
        if limit.scope != "run":
            continue
        measured.append(_measured(limit, _used(run, limit.limit, now_us), enough=_is_sampled(run, limit.limit)))
        if limit.limit == "cost" and run.unpriced:
            rule = run.limits.get("on_unknown_price", "stop")
            unknown = Limit(limit="cost", threshold=limit.threshold, on_exceed=cast("OnExceed", rule))
            spent = (run.cost_micros or 0) / 1_000_000
            measured.append(Measured(limit=unknown, actual=spent, is_broken=True, reason="price_unknown"))
    return tuple(measured)


def measure_step(run: Run, step: str, *, now_us: int) -> tuple[Measured, ...]:
    """Every limit of a step with what is used of it."""
    state = run.step_states.get(step, PENDING)
    return tuple(_measured(limit, _used_by(state, limit.limit, now_us)) for limit in step_limits_of(run, step))


def actual_now(run: Run, hit: LimitHit) -> float:
    """What is spent in the end: what was in flight when the limit was broken counts too."""
    if hit.scope != "run" or hit.limit not in ("cost", "tokens"):
        return hit.actual
    return max(hit.actual, _used(run, hit.limit, 0))


def active_us(run: Run, *, now_us: int) -> int:
    """How long the run has gone on; pauses and rests do not count."""
    return run.active_us + (0 if run.active_since_us is None else max(0, now_us - run.active_since_us))


def check_room(run: Run, limits: Mapping[str, Json]) -> None:
    """A run goes on only where no limit stops it at once; `limits` are the new ones. Raises BadRequest, NotAllowed."""
    parse_limits(limits)
    it = _in_the_way(run, limits)
    if it is not None:
        name = it.limit.limit
        is_or_are = "are" if name in ("tokens", "turns", "attempts") else "is"
        raise NotAllowed(
            f"run `{run.run_id}` cannot go on: its {name.replace('_', ' ')} {is_or_are} used up"
            f" ({words(name, it.actual, it.limit.threshold)})",
            hint=f"`{resume_command(run)}` gives it more",
            run_id=run.run_id,
        )


def resume_command(run: Run) -> str:
    """What to type so that the run goes on: with as much again where a limit is used up."""
    it = _in_the_way(run, {})
    more = "" if it is None else f" --limit {it.limit.limit}={_more(it)}"
    return f"runfold resume {run.run_id}{more}"


def how_to_go_on(run: Run) -> str:
    """What to type before anything can start in a run that rests or waits."""
    kind, _, name = (run.waiting_on or "").partition(":")
    if kind == "approval":
        return f"`runfold approve {run.run_id} {name}` or `runfold deny` first"
    return f"`{resume_command(run)}` first"


def _in_the_way(run: Run, limits: Mapping[str, Json]) -> Measured | None:
    """The first limit that would stop the run at once, with these in place of its own."""
    ahead = replace(run, limits=with_new(run.limits, limits), fails_in_row=0, repeats=Repeats(), active_since_us=None,
                    units=replace(run.units, fails_in_row=0))  # fmt: skip
    broken = [it for it in measure(ahead, now_us=0) if it.is_broken and not it.reason and it.limit.on_exceed != "warn"]
    return broken[0] if broken else _turns_in_the_way(ahead)


def has_used_its_turns(run: Run) -> bool:
    """Whether the next turn is what stopped the run, or made it ask."""
    return run.stop_condition == "turns" or (run.hit is not None and (run.hit.limit, run.hit.scope) == ("turns", "run"))


def more_turns(run: Run, limits: Mapping[str, Json]) -> int | None:
    """How many turns a run that had used those it was ordered gets in all; None where nobody gives it more."""
    if not has_used_its_turns(run):
        return None
    given = next((it for it in parse_limits(limits) if it.limit == "turns" and it.scope == "run"), None)
    return None if given is None or given.threshold <= run.max_turns else int(given.threshold)


def _turns_in_the_way(run: Run) -> Measured | None:
    """A turn too many is not started, so the run has not passed its limit of turns, and still cannot go on."""
    if not has_used_its_turns(run):
        return None
    own = next((it for it in limits_of(run) if it.limit == "turns" and it.scope == "run"), None)
    limit = own or Limit(limit="turns", threshold=run.max_turns)
    if run.turns < limit.threshold or limit.on_exceed == "warn":
        return None
    return Measured(limit=limit, actual=run.turns, is_broken=True)


def _more(measured: Measured) -> str:
    more = measured.actual + measured.limit.threshold
    return f"{min(more, 1.0) if measured.limit.limit.endswith('_rate') else more:.10g}"


def words(limit: str, actual: float, threshold: float) -> str:
    """`$1.20 of $1.00`: what is used of what is allowed, for people."""
    return f"{amount(limit, actual)} of {amount(limit, threshold)}"


def amount(limit: str, value: float) -> str:
    """A number of this limit with its unit."""
    match limit:
        case "cost":
            return f"${value:.2f}" if round(value, 2) == round(value, 6) else f"${value:.4f}"
        case "retry_rate" | "reject_rate":
            return f"{value * 100:.1f}%"
        case "time":
            return f"{value:.0f}s"
        case _:
            return f"{value:,.0f}"


def _readable(limits: Mapping[str, Json], scope: str) -> tuple[Limit, ...]:
    found: list[Limit] = []
    for name, value in limits.items():
        try:
            if not _is_price_rule(name, value):
                found.append(_parse(name, value, scope))
        except BadRequest:
            continue
    return tuple(found)


def _is_price_rule(name: str, value: Json) -> bool:
    if name != "on_unknown_price":
        return False
    if value not in ("warn", "ask", "stop"):
        raise BadRequest(f"limits.on_unknown_price is `{_short(value)}`", hint="it is `warn`, `ask` or `stop`")
    return True


def _parse(name: str, value: Json, scope: str) -> Limit:
    where = f"limits.{name[:80]}"
    kind = name
    if name.startswith("step:") and scope == "run":
        step, _, kind = name.removeprefix("step:").rpartition(":")
        scope = f"step:{step}"
    kind = _ALIASES.get(kind, kind)
    allowed: Sequence[str] = tuple(UNITS) if scope == "run" else STEP_LIMITS
    if kind not in allowed:
        whose = "run" if scope == "run" else "step"
        raise BadRequest(f"{where} is no limit of a {whose}", hint=f"the limits are: {', '.join(allowed)}")
    on_exceed: Json = "stop"
    if isinstance(value, dict):
        given = cast("dict[str, Json]", value)
        if unknown := set(given) - {"max", "on_exceed"}:
            raise BadRequest(f"{where}.{min(unknown)[:80]} is not known", hint="write `max` and `on_exceed`")
        value, on_exceed = given.get("max"), given.get("on_exceed", "stop")
    elif isinstance(value, str) and ":" in value:
        value, _, on_exceed = value.rpartition(":")
    if on_exceed not in ("warn", "ask", "stop"):
        raise BadRequest(f"{where}: `{_short(on_exceed)}` is not what can follow", hint="it is `warn`, `ask` or `stop`")
    threshold = _number(kind, value, where)
    return Limit(limit=kind, threshold=threshold, on_exceed=on_exceed, scope=scope)


def _number(kind: str, value: Json, where: str) -> float:
    factors = _FACTORS.get(kind, {"": 1})
    number: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str) and (found := _NUMBER.fullmatch(value.strip())):
        factor = factors.get(found[2].lower())
        number = None if factor is None else float(found[1]) * factor
    if number is None or not 0 < number < 2**53:
        units = ", ".join(repr(unit) for unit in factors if unit) or "none"
        raise BadRequest(
            f"{where} is `{_short(value)}`, not {UNITS[kind]} above 0", hint=f"a number; units it can have: {units}"
        )
    if kind.endswith("_rate") and number > 1:
        raise BadRequest(f"{where} is `{_short(value)}`, more than all", hint="write 0.25 or `25%`")
    if kind == "time" and number > TIME_SECONDS_MAX:
        raise BadRequest(f"{where} is `{_short(value)}`, more than a year", hint="leave it out for no limit")
    return number


def _short(value: Json) -> str:
    return str(value)[:80]


def _measured(limit: Limit, actual: float, *, enough: bool = True) -> Measured:
    reached = actual >= limit.threshold if limit.limit in _REACHED else actual > limit.threshold
    over = max(0.0, round(actual - limit.threshold, 6))
    return Measured(limit=limit, actual=actual, is_broken=reached and enough, overshoot=over)


def _used(run: Run, limit: str, now_us: int) -> float:
    match limit:
        case "cost":
            return (run.cost_micros or 0) / 1_000_000
        case "tokens":
            return run.tokens.total
        case "time":
            return active_us(run, now_us=now_us) / 1_000_000
        case "turns":
            return run.turns
        case "retry_rate":
            return retry_rate(run)
        case "reject_rate":
            return reject_rate(run)
        case "consecutive_fails":
            return max(run.fails_in_row, run.units.fails_in_row)
        case "attempts":
            return run.units.attempts
        case _:
            return max(run.repeats.tools, run.repeats.commands)


def _used_by(state: StepState, limit: str, now_us: int) -> float:
    match limit:
        case "cost":
            return (state.cost_micros or 0) / 1_000_000
        case "tokens":
            return state.tokens
        case "time":
            began = state.started_at_us
            return 0.0 if state.status != "running" or began is None else max(0, now_us - began) / 1_000_000
        case "turns":
            return state.turns
        case _:
            return state.attempt


def _is_sampled(run: Run, limit: str) -> bool:
    least = min(RATE_SAMPLE_MIN, run.units_total or RATE_SAMPLE_MIN)
    if limit == "retry_rate":
        return (run.units_total or run.units.started) >= least
    if limit == "reject_rate":
        return run.units.approved + run.units.rejected >= least
    return True
