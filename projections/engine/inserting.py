"""Rows on their way into a table, many a statement: one for each row would take half as long again."""

from collections.abc import Sequence

from eventstore.sqlite3_module import sqlite3

ROWS_TOGETHER = 100


class Rows(list[object]):
    """The values of rows on their way into one table, one after the other; who adds a row writes when it is `full`."""

    def __init__(self, table: str, columns: Sequence[str], *, verb: str = "INSERT", known: str = "") -> None:
        """Columns that are not named are null in all of these rows, which takes no time; binding nulls does.

        `known`: what is done with a row that is there.
        """
        super().__init__()
        self._columns = len(columns)
        row = f"({', '.join('?' * len(columns))})"
        insert, known = f"{verb} INTO {table} ({', '.join(columns)}) VALUES {row}", known and f" {known}"
        self._one = f"{insert}{known}"
        self._many = f"{insert}{f', {row}' * (ROWS_TOGETHER - 1)}{known}"
        self.full = len(columns) * ROWS_TOGETHER

    def write(self, connection: sqlite3.Connection) -> None:
        if len(self) == self.full:
            # Of a list with a class of its own each value is looked up in a way that takes longer than storing it.
            connection.execute(self._many, list(self))
        else:
            size = self._columns
            connection.executemany(self._one, [self[at : at + size] for at in range(0, len(self), size)])
        self.clear()
