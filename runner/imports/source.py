"""A file as JSON records, one at a time and never more than one in memory; bad input is refused by file and line."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from runfold.errors import BadRequest, NotFound, RunfoldError, TooLarge
from runner.imports.values import Map

RECORD_BYTES_MAX = 64 * 1024 * 1024
_HEAD_BYTES = 4096
_PACKED = {
    b"\x1f\x8b": "gunzip",
    b"\x28\xb5\x2f\xfd": "zstd -d",
    b"PK\x03\x04": "unzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
}


class Source:
    """A file that can be read twice; `sha256` and `size_bytes` are of what was read the last time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = ""
        self.size_bytes = 0

    @property
    def modified_us(self) -> int:
        """The file's date; 0 where there is no file, which `records` then says."""
        try:
            return self.path.stat().st_mtime_ns // 1000
        except OSError:
            return 0

    def records(self) -> Iterator[Map]:
        """Every JSON object of the file: its lines, or the items of its one document. Raises RunfoldError."""
        try:
            with self.path.open("rb") as file:
                yield from _Reading(self, file).records()
        except FileNotFoundError:
            raise NotFound(f"there is no file `{self.path}`", hint="check the name") from None
        except IsADirectoryError:
            raise BadRequest(f"`{self.path}` is a folder", hint=f"name its files: `{self.path}/*`") from None
        except OSError as error:
            raise BadRequest(f"`{self.path}` cannot be read: {error.strerror}", hint="check its rights") from None

    def refusal(self, what: str, *, line: int | None = None, hint: str) -> RunfoldError:
        place = f"`{self.path}`" if line is None else f"`{self.path}` line {line}"
        return BadRequest(f"{place} {what}", hint=hint)


class _Reading:
    """One pass over the file."""

    def __init__(self, source: Source, file: BinaryIO) -> None:
        self._source = source
        self._file = file
        self._hash = hashlib.sha256()
        self._size = 0
        self._line = 0

    def records(self) -> Iterator[Map]:
        self._check_head()
        first = self._next_line()
        second = self._next_line() if first else b""
        if second and (value := _decoded(first)) is not None:
            yield from self._lines(value, second)
        else:
            yield from self._document(first + second)
        self._source.sha256, self._source.size_bytes = self._hash.hexdigest(), self._size

    def _check_head(self) -> None:
        head = self._file.read(_HEAD_BYTES)
        self._file.seek(0)
        for magic, command in _PACKED.items():
            if head.startswith(magic):
                raise self._source.refusal("is compressed", hint=f"`{command} {self._source.path}` first")
        if b"\0" in head:
            raise self._source.refusal("is binary, not a recorded session", hint="`runfold import --help` says what is")
        if not head.strip():
            raise self._source.refusal("is empty", hint="there is nothing to import from it")

    def _next_line(self) -> bytes:
        """The next line that is not blank; empty at the end of the file."""
        while line := self._file.readline(RECORD_BYTES_MAX + 1):
            self._line += 1
            self._hash.update(line)
            self._size += len(line)
            if len(line) > RECORD_BYTES_MAX:
                raise TooLarge(
                    f"`{self._source.path}` line {self._line} is longer than {RECORD_BYTES_MAX >> 20} MiB",
                    hint="no known agent writes such a line; is it the right file?",
                )
            if self._line == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                return line
        return b""

    def _lines(self, value: object, line: bytes) -> Iterator[Map]:
        yield _as_map(value)
        while line:
            value = _decoded(line)
            if value is None:
                raise self._bad_line(line)
            yield _as_map(value)
            line = self._next_line()

    def _bad_line(self, line: bytes) -> RunfoldError:
        keep = f"`head -n {self._line - 1} {self._source.path} > whole.jsonl` keeps what stands before it"
        if line.endswith(b"\n"):
            return self._source.refusal(f"is not JSON: {_why(line)}", line=self._line, hint=keep)
        return self._source.refusal("breaks off in the middle", line=self._line, hint=f"copy the file again, or {keep}")

    def _document(self, whole: bytes) -> Iterator[Map]:
        rest = self._file.read(RECORD_BYTES_MAX + 1 - len(whole)) if len(whole) <= RECORD_BYTES_MAX else b""
        whole += rest
        self._hash.update(rest)
        self._size += len(rest)
        if len(whole) > RECORD_BYTES_MAX:
            raise TooLarge(
                f"`{self._source.path}` is one JSON document of more than {RECORD_BYTES_MAX >> 20} MiB",
                hint="import its parts, or a format with one record a line",
            )
        value = _decoded(whole)
        if value is None:
            if whole.lstrip()[:1] not in (b"{", b"["):
                raise self._source.refusal(
                    "is not a recorded session: it is not JSON", line=1, hint="`runfold import --help` says what is"
                )
            line, why = _place(whole)
            raise self._source.refusal(
                f"is not whole JSON: {why}", line=line, hint="get the file again from its source"
            )
        found = cast(list[object], value) if isinstance(value, list) else [value]
        if not found:
            raise self._source.refusal("holds an empty list", hint="there is nothing to import from it")
        yield from (_as_map(item) for item in found)


def _decoded(line: bytes) -> object:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _why(line: bytes) -> str:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)[:160]
    except RecursionError:
        return "it is nested too deeply"
    return "it holds only `null`"


def _place(whole: bytes) -> tuple[int, str]:
    """The line where a document breaks, and why."""
    why = _why(whole)
    digits = "".join(letter for letter in why.rpartition("byte ")[2] if letter.isdigit())
    at = int(digits) if digits else len(whole)
    return whole.count(b"\n", 0, at) + 1, why


def _as_map(value: object) -> Map:
    return cast(Map, value) if isinstance(value, dict) else {"value": value}
