"""Rows to be taken away as JSON lines, CSV (RFC 4180) or Parquet: one writer for every list, row by row as it comes.

A line of JSON is a row as the API shows it. A table has a column for each value, one within another by its path
(`stats.tokens.total`); lists and maps stand in it as JSON. In CSV a text that a spreadsheet would take for a formula
begins with `'`, as OWASP advises ("CSV Injection").
"""

import csv
import importlib
import io
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeAlias, Union, get_args, get_origin

import msgspec

from runfold.errors import InvalidSetting

Format: TypeAlias = Literal["jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
MEDIA_TYPES: dict[Format, str] = {
    "jsonl": "application/jsonl",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
ROWS_MAX = 1_000_000  # More than a spreadsheet takes.
BATCH_ROWS = 10_000  # Held in memory at once as one group of Parquet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


Kind: TypeAlias = Literal["text", "integer", "number", "bool"]
_KINDS: dict[Any, Kind] = {int: "integer", float: "number", bool: "bool"}


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """`path` leads to the value in a row that was made of plain types."""

    name: str
    kind: Kind
    path: tuple[str, ...]


class Export(Protocol):
    """What a row becomes, in pieces: each answer is written where it belongs, `end` last."""

    def add(self, rows: Iterable[Any]) -> bytes: ...

    def end(self) -> bytes: ...


def export_of(kind: type[msgspec.Struct], wanted: Format) -> Export:
    """For rows of one Struct. Raises InvalidSetting where what Parquet needs is not installed."""
    return _exports()[wanted](columns_of(kind))


def export_rows(names: Sequence[str], rows: Sequence[Sequence[Any]], wanted: Format) -> Iterator[bytes]:
    """For rows whose columns are known by their names alone; their kinds are told from all of them."""
    columns = tuple(
        Column(name=name, kind=_kind_of_values([row[index] for row in rows]), path=(name,))
        for index, name in enumerate(names)
    )
    export = _exports()[wanted](columns)
    yield export.add(dict(zip(names, row, strict=True)) for row in rows)
    yield export.end()


def columns_of(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> tuple[Column, ...]:
    found: list[Column] = []
    for field in msgspec.structs.fields(kind):
        below, inner = (*path, field.encode_name), _without_none(field.type)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            found += columns_of(inner, below)
        else:
            found.append(Column(name=".".join(below), kind=_KINDS.get(inner, "text"), path=below))
    return tuple(found)


class _Lines:
    def __init__(self, columns: tuple[Column, ...]) -> None:
        self._encoder = msgspec.json.Encoder()

    def add(self, rows: Iterable[Any]) -> bytes:
        return b"".join(self._encoder.encode(row) + b"\n" for row in rows)

    def end(self) -> bytes:
        return b""


class _Csv:
    def __init__(self, columns: tuple[Column, ...]) -> None:
        self._columns = columns
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text)
        self._writer.writerow([column.name for column in columns])

    def add(self, rows: Iterable[Any]) -> bytes:
        self._writer.writerows([_cell(value) for value in _values(row, self._columns)] for row in rows)
        return self._taken()

    def end(self) -> bytes:
        return self._taken()

    def _taken(self) -> bytes:
        content = self._text.getvalue().encode("utf-8", "replace")
        self._text.seek(0)
        self._text.truncate()
        return content


class _Parquet:
    def __init__(self, columns: tuple[Column, ...]) -> None:
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise InvalidSetting(
                "Parquet needs the package pyarrow, which is not installed", hint="`pip install 'runfold[parquet]'`"
            ) from None
        arrow = self._arrow
        kinds = {"integer": arrow.int64(), "number": arrow.float64(), "bool": arrow.bool_(), "text": arrow.string()}
        self._columns = columns
        self._schema = arrow.schema([(column.name, kinds[column.kind]) for column in columns])
        self._sink = _Sink()
        self._writer = parquet.ParquetWriter(arrow.PythonFile(self._sink, mode="w"), self._schema)
        self._waiting: list[list[Any]] = []

    def add(self, rows: Iterable[Any]) -> bytes:
        for row in rows:
            self._waiting.append(_values(row, self._columns))
            if len(self._waiting) == BATCH_ROWS:
                self._write()
        return self._sink.taken()

    def end(self) -> bytes:
        self._write()
        self._writer.close()
        return self._sink.taken()

    def _write(self) -> None:
        if self._waiting:
            arrays: list[Any] = []
            for column, field, values in zip(
                self._columns, self._schema, zip(*self._waiting, strict=True), strict=True
            ):
                fitting = map(_text, values) if column.kind == "text" else values
                arrays.append(self._arrow.array(list(fitting), field.type))
            self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
            self._waiting.clear()


class _Sink(io.RawIOBase):
    """What a writer that never goes back writes, until it is taken."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._chunks.append(bytes(content))
        self._position += len(self._chunks[-1])
        return len(self._chunks[-1])

    def tell(self) -> int:
        return self._position

    def taken(self) -> bytes:
        content = b"".join(self._chunks)
        self._chunks.clear()
        return content


def _exports() -> dict[Format, Callable[[tuple[Column, ...]], Export]]:
    return {"jsonl": _Lines, "csv": _Csv, "parquet": _Parquet}


def _values(row: Any, columns: tuple[Column, ...]) -> list[Any]:
    plain = msgspec.to_builtins(row)
    values: list[Any] = []
    for column in columns:
        value: Any = plain
        for name in column.path:
            value = None if value is None else value.get(name)
        values.append(msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value)
    return values


def _cell(value: Any) -> Any:
    text = _text(value)
    if isinstance(text, str) and isinstance(value, str) and text.startswith(_FORMULA):
        return f"'{text}"
    return "" if text is None else text


def _text(value: Any) -> str | None:
    """As JSON has it."""
    if value is None or isinstance(value, str):
        return value
    return value.hex() if isinstance(value, bytes) else msgspec.json.encode(value).decode()


def _without_none(kind: Any) -> Any:
    """`X | None` as X."""
    if get_origin(kind) in (Union, types.UnionType):
        left = [part for part in get_args(kind) if part is not types.NoneType]
        return left[0] if len(left) == 1 else kind
    return get_args(kind)[0] if get_origin(kind) is not None and hasattr(kind, "__metadata__") else kind


def _kind_of_values(values: Sequence[Any]) -> Kind:
    kinds: set[Any] = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int}:
        return "integer"
    return "number" if kinds and kinds <= {int, float} else "text"
