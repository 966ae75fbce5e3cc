"""Long texts that come again and again, each kept once: rows hold a number, and an index over numbers is small.

The number is made from the text itself, so it is the same in every fold, whatever was redacted before it.
"""

from typing import TypeVar

from eventstore.sqlite3_module import sqlite3

NAMES_HELD_MAX = 50_000
NUMBER_BYTES = 8


Name = TypeVar("Name", str, tuple[str, str, str, bool])


class Names(dict[Name, int]):
    """Text, or some that belong together → number, of one table of the number and the texts."""

    def __init__(self, table: str, texts: int = 1, *, more: int = 0, known: str = "NOTHING") -> None:
        """`more` columns follow the texts; `known`: what is done with a row that is there."""
        super().__init__()
        self._insert = f"INSERT INTO {table} VALUES (?{', ?' * (texts + more)}) ON CONFLICT DO {known}"  # noqa: S608
        self._new: list[tuple[object, ...]] = []

    def __missing__(self, name: Name) -> int:
        return self.learn(name)

    def learn(self, name: Name, *more: object) -> int:
        """The number of a name that is not held."""
        from hashlib import blake2b  # Reading commands should not load it.

        text = name if isinstance(name, str) else repr(name)
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=NUMBER_BYTES).digest()
        number = self[name] = int.from_bytes(digest, "big", signed=True)
        self._new.append((number, name, *more) if isinstance(name, str) else (number, *name, *more))
        return number

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany(self._insert, self._new)
        self._new.clear()
        if len(self) > NAMES_HELD_MAX:
            self.clear()

    def forget(self) -> None:
        self.clear()
        self._new.clear()
