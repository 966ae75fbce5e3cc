"""How an answer is taken away from the terminal: as JSON lines, CSV or Parquet, printed or into a file."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from cli.screen import is_terminal, talk
from runfold.errors import BadRequest

if TYPE_CHECKING:
    from projections.exporting import Export, Format

_Command = TypeVar("_Command", bound=Callable[..., Any])
NAMES: "tuple[Format, ...]" = ("jsonl", "csv", "parquet")
ROWS_AT_ONCE = 500


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The form that was asked for, and where to."""

    format: "Format"
    path: Path | None

    def write(self, kind: type[msgspec.Struct], items: Iterable[msgspec.Struct]) -> None:
        """Rows of one Struct, as they come. Raises InvalidSetting, OSError."""
        from projections.exporting import export_of

        self._write(_pieces(export_of(kind, self.format), items))

    def write_rows(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Rows of named columns. Raises as `write`."""
        from projections.exporting import export_rows

        self._write(export_rows(names, rows, self.format))

    def _write(self, pieces: Iterable[bytes]) -> None:
        if self.path is None:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        new = self.path.with_name(f".{self.path.name}.new")
        try:
            with new.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
            os.replace(new, self.path)
        except OSError as error:
            raise BadRequest(
                f"`{self.path}` cannot be written: {(error.strerror or str(error)).lower()}",
                hint="name a file in a folder that is there and can be written",
            ) from error
        finally:
            with suppress(OSError):
                new.unlink()
        talk(f"written: {self.path}")


def format_options(command: _Command) -> _Command:
    """`--format` and `--output`, the same for every list; the command gets them as `format_name` and `output`."""
    output = click.option(
        "-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
        help="Into a file; its ending says the format where --format does not.",
    )  # fmt: skip
    form = click.option(
        "--format", "format_name", type=click.Choice(NAMES), help="Take all of it away: JSON lines, CSV or Parquet."
    )
    return form(output(command))


def wanted_format(format_name: str | None, output: Path | None, *, as_json: bool) -> Wanted | None:
    """What was asked for; None where the answer is to be looked at. Raises BadRequest."""
    if format_name is None and output is None:
        return None
    if as_json:
        raise BadRequest("`--json` and `--format` are two forms of one answer", hint="give one of them")
    said = format_name or (output.suffix.removeprefix(".") if output else "")
    name: Format | None = next((name for name in NAMES if name == said), None)
    if name is None:
        raise BadRequest(f"`{output}` does not say its format", hint=f"add --format {'|'.join(NAMES)}")
    if name == "parquet" and output is None and is_terminal():
        raise BadRequest("Parquet is not for a terminal to show", hint="`--output FILE` writes it into a file")
    return Wanted(format=name, path=output)


def _pieces(export: "Export", items: Iterable[msgspec.Struct]) -> Iterable[bytes]:
    waiting: list[msgspec.Struct] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == ROWS_AT_ONCE:
            yield export.add(waiting)
            waiting.clear()
    yield export.add(waiting)
    yield export.end()
