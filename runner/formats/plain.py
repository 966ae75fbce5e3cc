"""Plain text: every line is output, but for telemetry lines; nothing but the exit code says how it ended."""

from collections.abc import Sequence

from runfold.events import Event, TelemetryRejected, Unknown
from runfold.telemetry import parse_line
from runner.formats.contract import Format, Parser

FORMAT = Format(name="plain", says_end=False, reports_files=False)


class PlainParser(Parser):
    def line(self, line: str | bytes) -> Sequence[Event | Unknown]:
        parsed = parse_line(line if isinstance(line, str) else line.decode("utf-8", "replace"))
        return (parsed,) if isinstance(parsed, TelemetryRejected) else parsed or ()
