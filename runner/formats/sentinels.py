"""Telemetry lines inside what a completed command printed: whole lines only, never the command that was echoed."""

import msgspec

from runfold.events import Event, TelemetryRejected, Unknown
from runfold.telemetry import parse_line

EVENTS_MAX = 500  # As many as one append holds.
REASONS_MAX = 20
_MARKS = ('"runfold"', '"__cody_event__"')


def reported(output: str) -> tuple[Event | Unknown, ...]:
    """The events that the output reports; refused lines are counted, one event for each reason."""
    if not any(mark in output for mark in _MARKS):
        return ()
    events: list[Event | Unknown] = []
    rejected: dict[str, TelemetryRejected] = {}
    for line in output.split("\n"):
        parsed = parse_line(line.removesuffix("\r"))
        if parsed is None:
            continue
        if not isinstance(parsed, TelemetryRejected) and len(events) >= EVENTS_MAX:
            parsed = TelemetryRejected(reason=f"one command reported more than {EVENTS_MAX} events")
        if isinstance(parsed, TelemetryRejected):
            if len(rejected) >= REASONS_MAX and parsed.reason not in rejected:
                parsed = msgspec.structs.replace(parsed, reason="other")
            known = rejected.get(parsed.reason)
            count = parsed.count + (known.count if known else 0)
            rejected[parsed.reason] = msgspec.structs.replace(known or parsed, count=count)
        else:
            events += parsed
    return (*events, *rejected.values())
