"""Long texts that come again and again, each kept once: rows hold a number, and an index over numbers is small.

The number is made from the text itself, so it is the same in every fold, whatever was redacted before it.
"""

from eventstore.sqlite3_module import sqlite3

NAMES_HELD_MAX = 50_000
NUMBER_BYTES = 8


class Names(dict[str, int]):
    """Text → number, of one table of (name_id, name)."""

    def __init__(self, table: str) -> None:
        from hashlib import blake2b  # Reading commands should not load it.

        super().__init__()
        self._digest = blake2b
        self._insert = f"INSERT OR IGNORE INTO {table} VALUES (?, ?)"  # noqa: S608
        self._new: list[tuple[int, str]] = []

    def __missing__(self, name: str) -> int:
        digest = self._digest(name.encode("utf-8", "surrogatepass"), digest_size=NUMBER_BYTES).digest()
        number = self[name] = int.from_bytes(digest, "big", signed=True)
        self._new.append((number, name))
        return number

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany(self._insert, self._new)
        self._new.clear()
        if len(self) > NAMES_HELD_MAX:
            self.clear()

    def forget(self) -> None:
        self.clear()
        self._new.clear()
