"""Drives a command in this terminal whose run is another machine's to record: every turn is reported to its server.

What the server wishes (pause, cancel, a limit) comes back with the answers to reports and heartbeats, so it is heeded
within seconds. A server that is away meanwhile gets what was said once it is back; the command does not wait for it.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from runfold.client.delivery import Delivery
from runfold.client.failing import encode_hidden, make_redactor
from runfold.client.requests import Answer, ArtifactBody, Do, Problem
from runfold.client.running import LEASE_SECONDS
from runfold.client.ways import Ways
from runfold.commands import Command, Complete, Fail, Stop
from runfold.errors import error_of_code
from runfold.events import Event, RunQueued, TurnFailed, TurnStarted, Unknown, encode_data, event_type
from runfold.observing import REPORTER_TYPES
from runfold.ordered_ids import ordered_id
from runfold.state import Run, Status, new_run
from runner.claims import background
from runner.here import EXIT_LIMIT, code_of, signals_to
from runner.launch import Launch
from runner.turns import terminal
from runner.turns.listener import Listener
from runner.turns.output import Output
from runner.turns.turn import Turn, TurnEnd
from runner.verdict import judge, turn_ended

HEED_SECONDS = 0.2  # Between two looks at what is known of the run; asking the server is the delivery's, every 2 s.
_ENDING = frozenset({"cancelling", "cancelled", "stopping", "stopped", "ended", "failed", "completed"})
_EXIT_CANCELLED = 128 + signal.SIGTERM


async def drive_away(
    order: RunQueued,
    launch: Launch,
    *,
    url: str,
    token: str,
    data: Path,
    quiet: bool = False,
    start: Callable[[str], None] | None = None,
) -> int:
    """Open the run at the server, drive it here to its end, and give the exit code. Raises RunfoldError."""
    key = ordered_id()
    ways = Ways(key, environ={**os.environ, "RUNFOLD_URL": url, "RUNFOLD_TOKEN": token}, data=data)
    away = _Away(Delivery(ways), launch)
    modes = terminal.saved_modes()
    try:
        with signals_to(away):
            opening = {"title": order.title, "labels": order.labels, "limits": order.limits}
            await away.ask("open", {**opening, "lease_seconds": LEASE_SECONDS}, key=key)
            if start is not None:
                start(away.run_id)
            return await away.drive(quiet=quiet)
    finally:
        terminal.restore_modes(modes)
        await asyncio.to_thread(away.close)


class _Away:
    def __init__(self, delivery: Delivery, launch: Launch) -> None:
        self._told, self._launch = delivery, launch
        self._redactor = make_redactor()
        self._turn: Turn | None = None
        self._is_held = False
        self._failed_turns = 0
        self.interrupted = ""

    @property
    def run_id(self) -> str:
        return self._told.run

    def close(self) -> None:
        self._told.close()

    def interrupt(self, what: str) -> None:
        if self._turn is not None:
            self._turn.end(at_once=bool(self.interrupted))
        self.interrupted = what

    def resize(self) -> None:
        if self._turn is not None:
            self._turn.resize()

    async def ask(self, do: Do, body: Mapping[str, Any], *, key: str | None = None) -> None:
        """Raises RunfoldError where it is refused."""
        _check(await asyncio.to_thread(self._told.ask, do, encode_hidden(body, self._redactor), key=key))

    async def drive(self, *, quiet: bool) -> int:
        if not quiet and terminal.is_terminal(2):
            os.write(2, f"runfold: {self.run_id} running; `runfold cancel {self.run_id}` ends it\n".encode())
        number = 0
        with tempfile.TemporaryDirectory(prefix="runfold-") as folder:
            output = Path(folder) / "output.log"
            while True:
                number += 1
                run = msgspec.structs.replace(new_run(self.run_id), turn=number, turns=number)
                end = await self._run_turn(run, output)
                run = msgspec.structs.replace(run, status=self._status)
                ended = turn_ended(run, end, cut_short=self._is_ending)
                # Its output stays on this machine but for the copy that is stored at the end.
                await self._say([msgspec.structs.replace(ended, output_bytes=0, output_sha256=None)])
                self._failed_turns = self._failed_turns + 1 if isinstance(ended, TurnFailed) else 0
                command = judge(self._launch, run, end, 0, failed_turns=self._failed_turns)
                if command is not None or self._is_ending:
                    await asyncio.to_thread(self._store, output)
                    return await self._end(command, end)

    async def _run_turn(self, run: Run, path: Path) -> TurnEnd:
        plan, digest = await asyncio.to_thread(self._launch.plan, run, run.turn)
        listener = Listener(
            format_name=self._launch.format, pattern=self._launch.completion.pattern, model=self._launch.model
        )
        turn = Turn.open(plan, run_id=self.run_id, path=path, listener=listener)
        try:
            await self._say([TurnStarted(turn=run.turn, pid=turn.pid, prompt_sha256=digest)])
        except BaseException:
            await asyncio.shield(turn.abandon())
            raise
        self._turn = turn
        if self.interrupted:
            turn.end()
        try:
            async with background(self._heed(turn)):
                return await turn.run(self._observe)
        finally:
            self._turn = None

    async def _heed(self, turn: Turn) -> None:
        """Do with the turn's processes what the server wishes of the run."""
        while True:
            status = self._told.status
            if status in _ENDING:
                turn.end()
                return
            if status == "pausing" and not self._is_held:
                turn.send(b"S")
                self._is_held = True
                await self.ask("control", {"action": "paused", "reason": "its processes are stopped"})
            elif status == "running" and self._is_held:
                self._is_held = False
                turn.send(b"C")
            await asyncio.sleep(HEED_SECONDS)

    async def _observe(self, events: Sequence[Event | Unknown], output: Output | None = None) -> None:
        await self._say([event for event in events if event_type(event) in REPORTER_TYPES])

    async def _say(self, events: Sequence[Event | Unknown]) -> None:
        for event in events:
            data = self._redactor.data(encode_data(event))
            # Leaves at once, and waits only where more has been said than is held.
            await asyncio.to_thread(self._told.say, event_type(event), data)

    def _store(self, output: Path) -> None:
        stored = ArtifactBody(name="output.log", path=str(output), media_type="text/plain")
        if output.exists() and output.stat().st_size:
            self._told.upload(msgspec.json.encode(stored))

    async def _end(self, command: Command | None, end: TurnEnd) -> int:
        code = code_of(end)
        await asyncio.to_thread(self._told.flush)
        match self._told.status:
            case "cancelling":
                receipt = msgspec.to_builtins(end.report.receipt)
                await self.ask("control", {"action": "cancelled", "receipt": receipt})
                return _EXIT_CANCELLED
            case "cancelled":
                return _EXIT_CANCELLED
            case "stopping":
                await self.ask("control", {"action": "stop"})
                return EXIT_LIMIT
            case "stopped":
                return EXIT_LIMIT
            case "ended" | "failed" | "completed":
                return code or 1
            case _:
                await self.ask("control", self._ending(command))
        if self.interrupted:
            return 128 + signal.Signals[self.interrupted]
        return EXIT_LIMIT if isinstance(command, Stop) else code or (1 if isinstance(command, Fail) else 0)

    def _ending(self, command: Command | None) -> dict[str, Any]:
        if self.interrupted:
            said = f"interrupted by {self.interrupted}"
            return {"action": "stop", "reason_code": "USER_INTERRUPT", "message": said}
        if isinstance(command, Fail):
            return {"action": "fail", "reason_code": command.reason_code, "error": msgspec.to_builtins(command.error)}
        if isinstance(command, Stop):
            return {"action": "stop", "reason_code": command.reason_code, "message": command.message}
        code = command.reason_code if isinstance(command, Complete) else "REPORTED"
        return {"action": "complete", "reason_code": code}

    @property
    def _is_ending(self) -> bool:
        return bool(self.interrupted) or self._told.status in _ENDING

    @property
    def _status(self) -> Status:
        status = self._told.status
        return "cancelling" if status == "cancelling" else "stopping" if status == "stopping" else "running"


def _check(answer: Answer) -> None:
    if answer.status >= 400:
        problem = msgspec.json.decode(answer.body, type=Problem)
        raise error_of_code(problem.code)(problem.detail, hint=problem.hint)
