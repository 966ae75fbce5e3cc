"""Rows that are only added, many a statement: one for each row would take half as long again."""

from eventstore.sqlite3_module import sqlite3

ROWS_TOGETHER = 50


class Rows(list[object]):
    """The values of rows on their way into one table, one after the other; who adds a row writes when it is `full`."""

    def __init__(self, table: str, columns: int) -> None:
        super().__init__()
        self._columns = columns
        row = f"({', '.join('?' * columns)})"
        self._one = f"INSERT INTO {table} VALUES {row}"  # noqa: S608
        self._many = f"{self._one}{f', {row}' * (ROWS_TOGETHER - 1)}"
        self.full = columns * ROWS_TOGETHER

    def write(self, connection: sqlite3.Connection) -> None:
        if len(self) == self.full:
            connection.execute(self._many, self)
        else:
            size = self._columns
            connection.executemany(self._one, [self[at : at + size] for at in range(0, len(self), size)])
        self.clear()
