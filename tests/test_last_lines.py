"""The last lines of a file, found from its end."""

from pathlib import Path

import pytest

from cli.last_lines import BLOCK_BYTES, last_lines_at

LONG = b"x" * (BLOCK_BYTES - 1) + b"\n"  # Ends where a block does.
WHOLE = b"one\n" + LONG + b"\n" + LONG[1:] + LONG * 2 + b"last"


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
@pytest.mark.parametrize("lines", range(9))
def test_as_many_lines_as_are_asked_for_stand_behind_the_place(tmp_path: Path, lines: int, end: bytes) -> None:
    content = WHOLE + end
    path = tmp_path / "output.log"
    path.write_bytes(content)
    with path.open("rb") as file:
        offset = last_lines_at(file, lines)
    assert content[offset:] == (b"".join(content.splitlines(keepends=True)[-lines:]) if lines else b"")
