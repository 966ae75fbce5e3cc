"""Rows of one Struct as CSV or Parquet: the columns are its fields, by their stored names."""

import csv
import importlib
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import msgspec

from runfold.errors import InvalidSetting

BATCH_ROWS = 10_000  # What is held in memory at once, however long the result.


def write_csv(path: Path, kind: type[msgspec.Struct], items: Iterable[msgspec.Struct]) -> None:
    """With a header; `-` is stdout."""
    if str(path) == "-":
        _write_csv(sys.stdout, kind, items)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        _write_csv(file, kind, items)


def write_parquet(path: Path, kind: type[msgspec.Struct], items: Iterable[msgspec.Struct]) -> int:
    """The number of rows. Raises InvalidSetting where the extra is not installed."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InvalidSetting(
            "Parquet needs the package pyarrow, which is not installed", hint="`pip install 'runfold[parquet]'`"
        ) from None
    rows = iter(items)
    written = 0
    columns = _columns(kind)
    schema = arrow.schema([(name, arrow.int64() if _is_number(kind, name) else arrow.string()) for name in columns])
    with parquet.ParquetWriter(path, schema) as writer:
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            values = [[row[name] for row in map(msgspec.to_builtins, batch)] for name in columns]
            writer.write_table(arrow.table(dict(zip(columns, values, strict=True)), schema=schema))
            written += len(batch)
    return written


def _write_csv(file: TextIO, kind: type[msgspec.Struct], items: Iterable[msgspec.Struct]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_columns(kind))
    writer.writerows(_values(items))


def _values(items: Iterable[msgspec.Struct]) -> Iterator[list[Any]]:
    for item in items:
        row: dict[str, Any] = msgspec.to_builtins(item)
        yield ["" if value is None else value for value in row.values()]


def _columns(kind: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _is_number(kind: type[msgspec.Struct], name: str) -> bool:
    return any(field.encode_name == name and field.type is int for field in msgspec.structs.fields(kind))
