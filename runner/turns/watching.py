"""What a turn does beside what it prints: the files of its workspace, and the logs that grow there."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path

from runfold.events import Event, FileDeleted, FileWritten, Unknown
from runner.formats.choosing import format_of_command
from runner.launch import Launch
from runner.turns.listener import Listener
from runner.turns.logs import WatchedLogs
from runner.turns.output import Output
from runner.turns.turn import Observe
from runner.turns.workspace import Workspace

LOOK_SECONDS = 0.5


class Watching:
    """Begun before the turn starts; its methods block, and may be called in several threads.

    Files are told where the agent's format tells none, or where the workflow wants it, and never twice.
    """

    def __init__(self, launch: Launch, *, data: Path) -> None:
        folder = Path(launch.cwd or ".")
        self._lock = threading.Lock()
        self._is_wanted = launch.watch_files is True
        self._logs = WatchedLogs(folder, launch.watch_logs, launch.secrets)
        self._workspace: Workspace | None = None
        if _watches_files(launch, folder):
            others = (data, *(folder / name for name in launch.watch_logs))
            self._workspace = Workspace(folder, ignored=launch.ignore_files, others=others)

    @contextlib.asynccontextmanager
    async def telling(
        self, listener: Listener, tell: Callable[[Sequence[Event | Unknown]], Awaitable[None]], observe: Observe
    ) -> AsyncGenerator[Observe]:
        """Tell what is seen while the block runs, and the rest at its end; its own events go through what it gets."""
        ended = asyncio.Event()

        async def look() -> None:
            # Told to end, never cancelled: what it has seen is told by nobody else.
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), LOOK_SECONDS)
                    return
                await tell(await asyncio.to_thread(self.look, listener))

        async def hear(events: Sequence[Event | Unknown], output: Output) -> None:
            self.hear(events)
            await observe(events, output)

        async with asyncio.TaskGroup() as group:
            group.create_task(look())
            try:
                yield hear
            finally:
                ended.set()
        await tell(await asyncio.to_thread(self.finish, listener))

    def hear(self, events: Sequence[Event | Unknown]) -> None:
        """What the program has told of its files itself."""
        for event in events:
            if self._workspace is not None and isinstance(event, FileWritten | FileDeleted):
                self._workspace.reported(event.path)

    def look(self, listener: Listener) -> list[Event]:
        with self._lock:
            files = self._workspace.look() if self._workspace is not None and self._tells(listener) else []
            return [*self._logs.look(), *files]

    def finish(self, listener: Listener) -> list[Event]:
        """What is left to tell when the turn has ended; its processes are gone, and all it said was heard."""
        with self._lock:
            workspace, files = self._workspace, list[Event]()
            if workspace is not None and self._tells(listener):
                refusal = workspace.refusal
                files = workspace.finish() if refusal is None else [refusal]
            return [*self._logs.look(), *files]

    def close(self) -> None:
        with self._lock:
            if self._workspace is not None:
                self._workspace.close()
            self._workspace = None

    def _tells(self, listener: Listener) -> bool:
        return self._is_wanted or not listener.reports_files


def _watches_files(launch: Launch, folder: Path) -> bool:
    if launch.watch_files is not None:
        return launch.watch_files
    known = format_of_command(launch.argv, launch.format)
    if known is not None and known.reports_files:
        return False
    # A command that is typed at home, or at the root, does not work on all that is there.
    return folder.resolve() not in (Path("~").expanduser(), Path("/"))
