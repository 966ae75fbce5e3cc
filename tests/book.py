"""A log into which recorded sessions are brought."""

from pathlib import Path

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.envelope import Recorded
from runner.imports.importing import Imported, import_file, read_file


class Book:
    """A ledger of its own, and what stands in it."""

    def __init__(self, log: SqliteLog, data: Path) -> None:
        self._log = log
        self.data = data
        self.ledger = Ledger(log, data=data)

    async def bring(self, path: Path, *, again: bool = False) -> list[Imported]:
        return await import_file(self.ledger, read_file(path), tenant="default", actor="user:a", again=again)

    async def events(self, run_id: str) -> list[Recorded]:
        return [event async for page in self._log.read(stream=run_id) for event in page.events]

    async def head(self) -> int:
        return (await self._log.bounds()).last


def write(folder: Path, content: str, name: str = "no-name-that-tells") -> Path:
    path = folder / name
    path.write_text(content)
    return path
