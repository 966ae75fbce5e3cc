"""Where a key stands in a TOML file, so that whoever wrote it wrongly finds it."""

import re


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line where a key stands, or the nearest table above it; found by its words, without a second parser."""
    table: tuple[str, ...] = ()
    best, best_length = 1, 0
    for number, line in enumerate(text.splitlines(), start=1):
        here = table
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line):
            here = table = _words(header[1])
        elif key := re.match(r"\s*([A-Za-z0-9_.\"'-]+?)\s*=", line):
            here = (*table, *_words(key[1]))
        length = next(
            (i for i, (a, b) in enumerate(zip(here, path, strict=False)) if a != b), min(len(here), len(path))
        )
        if length > best_length and length == len(here):
            best, best_length = number, length
    return best


def _words(dotted: str) -> tuple[str, ...]:
    return tuple(word.strip().strip("\"'") for word in dotted.split("."))
