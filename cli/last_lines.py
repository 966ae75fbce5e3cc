"""Where the last lines of a file begin, found without reading what is before them."""

from typing import BinaryIO

BLOCK_BYTES = 64 * 1024


def last_lines_at(file: BinaryIO, lines: int) -> int:
    """The offset in bytes at which the last so many lines begin; 0 where there are fewer."""
    end = offset = file.seek(0, 2)
    if not lines:
        return end
    found = 0
    while offset > 0:
        start = max(offset - BLOCK_BYTES, 0)
        file.seek(start)
        block = file.read(offset - start)
        # A newline at the very end closes the last line; it begins none.
        place = len(block) - (offset == end and block.endswith(b"\n"))
        while (place := block.rfind(b"\n", 0, place)) >= 0:
            found += 1
            if found == lines:
                return start + place + 1
        offset = start
    return 0
