"""Pause, resume and cancel from wherever a run stands, whoever asks, and as often as he likes: within deadlines."""

import asyncio
import json
import signal
import time
import urllib.request
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold.commands import Cancel, Pause, Resume
from runfold.envelope import time_us
from tests.leaving import left_of
from tests.terminal import first_line, read, runfold, started

GRACE_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
WORKFLOWS = f"""
[workflow.long]
command = ["sh", "-c", "echo up; exec tail -f FOLDER/quiet"]
max_turns = 2
grace_seconds = {GRACE_SECONDS}
[workflow.stubborn]
command = ["sh", "-c", "trap : TERM; echo up; while :; do sleep 0.1; done # FOLDER"]
grace_seconds = {GRACE_SECONDS}
[workflow.ending]
command = ["sh", "-c", "echo up; until test -e go; do sleep 0.02; done # FOLDER"]
max_turns = 2
"""
WISHES = {"cancel": Cancel, "pause": Pause, "resume": Resume}


@dataclass
class Server:
    data: Path
    url: str

    @property
    def token(self) -> str:
        return (self.data / "token").read_text().strip()

    def start(self, workflow: str) -> str:
        """A run of its own whose first turn is at work; its id."""
        run_id = self.queue(workflow)
        self.until(run_id, lambda: b"up" in (self.data / "runs" / run_id / "output.log").read_bytes())
        return run_id

    def queue(self, workflow: str) -> str:
        return str(self.ask("/api/runs", {"workflow": workflow})["id"])

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A POST where there is a body."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return {"code": answer.status, **json.load(answer)}

    def wish(self, way: str, run_id: str, action: str, *, now: bool = False) -> tuple[Any, ...]:
        """Ask for it in one of the ways; what was answered."""
        if way == "api":
            answer = self.ask(f"/api/runs/{run_id}/control", {"action": action, **({"now": True} if now else {})})
            return answer["code"], answer["id"]
        if way == "process":
            command = Pause(now=True) if now else WISHES[action]()
            return (asyncio.run(self._execute(run_id, command)),)
        there: dict[str, Any] = {} if way == "cli" else {"RUNFOLD_URL": self.url, "RUNFOLD_TOKEN": self.token}
        done = runfold(self.data, action, run_id, *(["--now"] if now else []), **there)
        assert done.returncode == 0, done.stderr
        return (done.stdout,)

    async def _execute(self, run_id: str, command: Any) -> str:
        log = await SqliteLog.open(self.data)
        try:
            executed = await Ledger(log).execute(
                run_id, command, command_id=str(uuid.uuid4()), actor="user:other", tenant="default"
            )
            return executed.run.run_id
        finally:
            await log.close()

    def status(self, run_id: str) -> str:
        return str(self.ask(f"/api/runs/{run_id}")["status"])

    def until_status(self, run_id: str, status: str) -> None:
        self.until(run_id, lambda: self.status(run_id) == status)

    def until(self, run_id: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if is_so():
                    return
            except FileNotFoundError:
                pass
            assert time.monotonic() < deadline, self.status(run_id)

    def cancel_others(self) -> None:
        for item in self.ask("/api/runs?status=queued&status=running")["items"]:
            self.wish("api", item["id"], "cancel")
            self.until_status(item["id"], "cancelled")

    def took_seconds(self, run_id: str) -> float:
        """From the request for the cancel to its end, by the log's own times."""
        items = self.ask(f"/api/runs/{run_id}/events")["items"]
        at = {it["type"]: time_us(it["at"]) for it in items}
        assert sum(it["type"] in ("cancel_requested", "run_cancelled") for it in items) == 2
        return (at["run_cancelled"] - at["cancel_requested"]) / 1e6


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    folder = tmp_path_factory.mktemp("cancelling")
    (folder / "runfold.toml").write_text(WORKFLOWS.replace("FOLDER", str(folder)))
    (folder / "quiet").touch()
    with started(folder / "data", "up", "--no-browser", "--workers", "1", cwd=folder) as process:
        yield Server(folder / "data", first_line(process).partition("/login")[0])


def queued(server: Server, way: str) -> str:
    """One waits behind another that has the only slot."""
    server.start("long")
    return server.queue("long")


def running(server: Server, way: str) -> str:
    return server.start("long")


def pausing(server: Server, way: str) -> str:
    run_id = server.start("long")
    assert server.wish(way, run_id, "pause") == server.wish(way, run_id, "pause")
    assert server.status(run_id) == "pausing"
    return run_id


def held(server: Server, way: str) -> str:
    """Paused in the middle of its turn: its processes are there, and stopped."""
    run_id = server.start("long")
    assert server.wish(way, run_id, "pause", now=True) == server.wish(way, run_id, "pause", now=True)
    server.until_status(run_id, "paused")
    return run_id


def resting(server: Server, way: str) -> str:
    """Paused at its turn's end: nothing of it is there."""
    go = server.data.parent / "go"
    run_id = server.start("ending")
    server.wish(way, run_id, "pause")
    go.touch()
    server.until_status(run_id, "paused")
    go.unlink()
    return run_id


@pytest.mark.slow
@pytest.mark.parametrize("way", ["cli", "api", "process", "cli through a server"])
@pytest.mark.parametrize("state", [queued, running, pausing, held, resting])
def test_a_run_is_cancelled_from_every_state_by_whoever_asks_and_asking_twice_is_asking_once(
    server: Server, state: Callable[[Server, str], str], way: str
) -> None:
    took = list[float]()
    # A second is little where the machine is busy with something else: then once more.
    while len(took) < 3 and not (took and took[-1] <= GRACE_SECONDS + 1):
        run_id = state(server, way)
        answers = [server.wish(way, run_id, "cancel") for _ in range(2)]
        server.until_status(run_id, "cancelled")
        answers.append(server.wish(way, run_id, "cancel"))
        took.append(server.took_seconds(run_id))
        server.cancel_others()
        assert answers[0] == answers[1] == answers[2]
        assert left_of(server.data.parent, PATIENCE_SECONDS) == []
    assert min(took) <= GRACE_SECONDS + 1, took


@pytest.mark.slow
def test_what_does_not_obey_is_gone_within_the_grace_and_a_second(server: Server) -> None:
    took = list[float]()
    while len(took) < 3 and not (took and took[-1] <= GRACE_SECONDS + 1):
        run_id = server.start("stubborn")
        server.wish("api", run_id, "cancel")
        server.until_status(run_id, "cancelled")
        took.append(server.took_seconds(run_id))

    assert GRACE_SECONDS <= min(took) <= GRACE_SECONDS + 1, took


@pytest.mark.slow
@pytest.mark.parametrize("way", ["cli", "api", "process", "cli through a server"])
def test_a_held_run_goes_on_where_it_was_and_resuming_twice_is_resuming_once(server: Server, way: str) -> None:
    run_id = held(server, way)

    answers = [server.wish(way, run_id, "resume") for _ in range(2)]
    server.until_status(run_id, "running")
    types = [it["type"] for it in server.ask(f"/api/runs/{run_id}/events")["items"]]
    server.wish(way, run_id, "cancel")
    server.until_status(run_id, "cancelled")

    assert answers[0] == answers[1]
    assert (types.count("run_resumed"), types.count("run_paused"), types.count("turn_started")) == (1, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("wish", ["", "pause", "pause --now"])
def test_a_run_of_a_terminal_is_cancelled_from_elsewhere_also_while_it_pauses(tmp_path: Path, wish: str) -> None:
    data = tmp_path / "data"
    (tmp_path / "quiet").touch()
    command = ["run", "--max-turns", "2", "--", "sh", "-c", f"echo up; exec tail -f {tmp_path}/quiet"]
    with started(data, *command) as process:
        first_line(process)
        if wish:
            runfold(data, wish.partition(" ")[0], "@last", *wish.split()[1:])
        cancelled = runfold(data, "cancel", "@last")
        code = process.wait(PATIENCE_SECONDS)

    assert (cancelled.returncode, code) == (0, 128 + signal.SIGTERM)
    assert read(data, "status", "@last")["status"] == "cancelled"
    assert left_of(tmp_path, PATIENCE_SECONDS) == []
