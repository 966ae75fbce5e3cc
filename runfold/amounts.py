"""Numbers that nobody can mean are refused, so that no sum of them is too large for those who keep and show it."""

from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from runfold.errors import InvalidEvent
from runfold.events import Event, Unknown, event_type
from runfold.state import Run

AMOUNT_MAX = 10**12  # Tokens, bytes, milliseconds, tests, millionths of a dollar: no single event is about more.
TOTAL_MAX = 1_000 * AMOUNT_MAX  # Of a run's tokens and cost; sums over thousands of runs still fit into 64 bits.


def check_amounts(event: Event | Unknown) -> None:
    """Raises InvalidEvent, which names the field."""
    for name in _amounts_of(type(event)):
        value = getattr(event, name)
        if type(value) is int and not -AMOUNT_MAX <= value <= AMOUNT_MAX:
            raise InvalidEvent(f"`{name}` of `{event_type(event)}` is more than {AMOUNT_MAX}")


@cache
def _amounts_of(kind: type[Event | Unknown]) -> tuple[str, ...]:
    """The fields of a kind of event that may hold a number."""
    return tuple(field.name for field in msgspec.structs.fields(kind) if _may_be_number(field.type))


def _may_be_number(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return any(map(_may_be_number, get_args(kind)))
    return kind in (int, float, Any)


def check_totals(run: Run) -> None:
    """Raises InvalidEvent where the run's sums have grown beyond all measure."""
    tokens = run.tokens
    largest = max(
        *(tokens.input_tokens, tokens.output_tokens, tokens.cache_read_tokens, tokens.cache_write_tokens),
        *(tokens.reasoning_tokens, run.cost_micros or 0),
    )
    if largest > TOTAL_MAX:
        raise InvalidEvent(f"tokens or cost of run `{run.run_id}` would be more than {TOTAL_MAX}", run_id=run.run_id)
