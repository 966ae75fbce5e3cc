"""Completion patterns that cannot hang: RE2 where it is installed, else the pattern as plain text."""

import importlib
from collections.abc import Callable
from typing import Any

LINE_CHARACTERS_MAX = 400  # Of the line that is kept as the proof.


def check_pattern(pattern: str) -> str:
    """What is wrong with it, or nothing."""
    re2 = _re2()
    if re2 is None:
        return ""
    try:
        re2.compile(pattern, _options(re2))
    except re2.error as error:
        said = error.args[0] if error.args else ""
        return said.decode() if isinstance(said, bytes) else str(said)
    return ""


def searcher(pattern: str) -> Callable[[bytes], str | None]:
    """Finds the first line in which the pattern occurs; a pattern that RE2 does not know is looked for as text."""
    re2 = _re2()
    if re2 is None or check_pattern(pattern):
        plain = pattern.encode()
        return lambda content: _line_at(content, content.find(plain))
    # `$` and `^` mean the line, and no line is joined with the next.
    compiled = re2.compile(f"(?m)(?:{pattern})".encode(), _options(re2))

    def search(content: bytes) -> str | None:
        match: Any = compiled.search(content)
        return None if match is None else _line_at(content, match.start())

    return search


def _options(re2: Any) -> Any:
    options = re2.Options()
    # It would write to our standard error.
    options.log_errors = False
    return options


def _line_at(content: bytes, at: int) -> str | None:
    if at < 0:
        return None
    start = content.rfind(b"\n", 0, at) + 1
    end = content.find(b"\n", at)
    line = content[start : end if end >= 0 else len(content)]
    return line.decode("utf-8", "replace").strip()[:LINE_CHARACTERS_MAX]


def _re2() -> Any:
    """Asked for by name: its package has no types, and some platforms have no package."""
    try:
        return importlib.import_module("re2")
    except ImportError:
        return None
