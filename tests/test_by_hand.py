"""What was started by hand goes on where it was typed: in its terminal, or repeated word for word for its admin."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from runfold import commands as c
from runfold import events as e
from runfold.errors import Forbidden
from runfold.workflows import Registry
from runner import machine
from runner.by_hand import ByHand, rest_unattended
from runner.claims import Claims
from tests.terminal import ROOT, Screen, environment, first_line, read, runfold, started

RUN_ID = "r_00000000000000000000000001"
PATIENCE_SECONDS = 60.0
WAITS = "echo turn; until test -e paused; do sleep 0.02; done"


@dataclass
class Server:
    data: Path
    url: str
    operator: str

    def ask(self, path: str, body: dict[str, Any], *, operator: bool = False) -> tuple[int, dict[str, Any]]:
        token = self.operator if operator else (self.data / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@pytest.fixture
def server(tmp_path: Path) -> Generator[Server]:
    data = tmp_path / "data"
    made = read(data, "token", "create", "--role", "operator")
    with started(data, "up", "--no-browser", cwd=tmp_path) as process:
        link = first_line(process)
        yield Server(data, link.partition("/login")[0], made["secret"])


def typed(data: Path, folder: Path, *argv: str) -> str:
    """A run that was typed in a folder, to its end; its id."""
    folder.mkdir(exist_ok=True)
    runfold(data, "run", "--quiet", "--", *argv, cwd=folder)
    return str(read(data, "ps", "-a")["items"][0]["id"])


@pytest.mark.slow
def test_a_typed_command_is_tried_again_over_http_word_for_word_for_an_admin_and_nobody_else(server: Server) -> None:
    folder = server.data.parent / "a folder"
    run_id = typed(server.data, folder, sys.executable, "-c", "import sys,os; print(os.getcwd(), sys.argv[1:])", "a b")

    refused = server.ask(f"/api/runs/{run_id}/retry", {}, operator=True)
    planned = server.ask(f"/api/runs/{run_id}/retry", {"plan": True}, operator=True)
    status, answer = server.ask(f"/api/runs/{run_id}/retry", {})
    new_id = answer["new_run_id"]
    waited = runfold(server.data, "wait", new_id)
    again = server.ask(f"/api/runs/{new_id}/retry", {})

    account = machine.account()
    assert (refused[0], refused[1]["hint"]) == (403, f"type `runfold retry {run_id}` as {account}")
    assert (planned[0], planned[1]["by_hand"]) == (200, refused[1]["hint"])
    assert (status, waited.returncode, answer["by_hand"]) == (202, 0, None)
    assert runfold(server.data, "logs", new_id).stdout == f"{folder} ['a b']\n"
    assert again[0] == 202
    assert runfold(server.data, "wait", again[1]["new_run_id"]).returncode == 0


@pytest.mark.slow
def test_a_typed_command_that_rests_is_resumed_over_http_by_the_servers_worker(server: Server) -> None:
    command = ["run", "--", "sh", "-c", "test -e went && exit 0; touch went; echo up; exec sleep 60"]
    with started(server.data, *command, cwd=server.data.parent) as process:
        first_line(process)
        process.terminate()
        process.wait(30)
    run_id = str(read(server.data, "ps", "-a")["items"][0]["id"])

    refused = server.ask(f"/api/runs/{run_id}/control", {"action": "resume"}, operator=True)
    preview = server.ask("/api/runs/bulk", {"action": "resume", "ids": [run_id], "dry_run": True}, operator=True)
    status, answer = server.ask(f"/api/runs/{run_id}/control", {"action": "resume"})
    waited = runfold(server.data, "wait", run_id)

    assert (refused[0], refused[1]["hint"]) == (403, f"type `runfold resume {run_id}` as {machine.account()}")
    assert preview[1]["items"][0]["hint"] == refused[1]["hint"]
    assert (status, answer["driver"]) == (202, "queue")
    assert waited.returncode == 0
    assert read(server.data, "status", run_id)["stats"]["turns"] == 2


@pytest.mark.slow
def test_a_typed_command_that_is_repeated_meets_the_programs_that_it_met_and_the_servers_keys(server: Server) -> None:
    folder = server.data.parent / "bin"
    folder.mkdir()
    (folder / "tool").write_text('#!/bin/sh\necho "mine of $VIRTUAL_ENV with ${SOME_TOKEN:-no token}"\n')
    (folder / "tool").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    seen = runfold(
        server.data, "run", "--quiet", "--", "tool", PATH=path, VIRTUAL_ENV="/some/venv", SOME_TOKEN="sesame-open"
    )
    run_id = str(read(server.data, "ps", "-a")["items"][0]["id"])

    answer = server.ask(f"/api/runs/{run_id}/retry", {})[1]
    waited = runfold(server.data, "wait", answer["new_run_id"])

    assert seen.stdout == "mine of /some/venv with sesame-open\n"
    assert waited.returncode == 0
    assert runfold(server.data, "logs", answer["new_run_id"]).stdout == "mine of /some/venv with no token\n"
    assert "sesame" not in runfold(server.data, "events", run_id, "--json").stdout


@pytest.mark.slow
def test_a_terminal_that_still_waits_takes_its_run_when_it_is_resumed_over_http(server: Server) -> None:
    command = ["run", "--max-turns", "2", "--", "sh", "-c", WAITS]
    screen = Screen(
        [sys.executable, "-m", "runfold", *command], environment(server.data, PYTHONPATH=str(ROOT)), server.data.parent
    )
    try:
        screen.wait_for("turn")
        run_id = str(read(server.data, "ps")["items"][0]["id"])
        driver = read(server.data, "status", run_id)["worker"]
        server.ask(f"/api/runs/{run_id}/control", {"action": "pause"}, operator=True)
        (server.data.parent / "paused").touch()
        until_status(server.data, run_id, "paused")
        status, answer = server.ask(f"/api/runs/{run_id}/control", {"action": "resume"}, operator=True)
        code = screen.end()
    finally:
        screen.close()
    claims = [
        it["data"]["worker"] for it in read(server.data, "events", run_id)["items"] if it["type"] == "run_claimed"
    ]

    assert (status, answer["driver"], code) == (202, "here", 0)
    assert claims == [driver, driver]


@pytest.mark.slow
def test_a_run_that_is_allowed_when_its_terminal_is_gone_is_paused_with_what_to_type(server: Server) -> None:
    (server.data.parent / "runfold.toml").write_text('[workflow.ask]\ncommand = ["true"]\napproval = "May it?"\n')
    asked = runfold(server.data, "run", "--workflow", "ask", cwd=server.data.parent)
    run_id = str(read(server.data, "ps")["items"][0]["id"])
    (server.data.parent / "runfold.toml").write_text("")

    status, _ = server.ask(f"/api/runs/{run_id}/approvals/a1", {"decision": "grant"}, operator=True)
    until_status(server.data, run_id, "paused")
    paused = [it for it in read(server.data, "events", run_id)["items"] if it["type"] == "run_paused"]

    assert (asked.returncode, status) == (75, 200)
    assert f"`runfold resume {run_id}`" in paused[-1]["data"]["reason"]


async def test_only_the_account_that_typed_a_command_repeats_it_and_only_on_its_own_machine(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    try:
        order = e.RunQueued(driver="here", command=("true",), typed_by=machine.account())
        run = await stopped(Ledger(log), order)
        here = ByHand(log, data=tmp_path, registry=Registry, repeats=True)
        open_to_all = ByHand(log, data=tmp_path, registry=Registry, repeats=False)

        assert await here.driver_of(run, is_admin=True) == "queue"
        for by_hand, of, is_admin in [
            (open_to_all, order, True),
            (here, order, False),
            (here, replace(order, typed_by="root@elsewhere"), True),
            (here, replace(order, typed_by=""), True),
            (here, replace(order, command=("curl", "[redacted]")), True),
        ]:
            with pytest.raises(Forbidden, match="nobody here goes on with it"):
                by_hand.check_retry(run, of, is_admin=is_admin)
    finally:
        await log.close()


async def test_a_run_whose_terminal_waits_is_left_to_it_and_paused_once_it_is_gone(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    claims = await Claims.open(tmp_path)
    try:
        ledger = Ledger(log)
        await stopped(ledger, e.RunQueued(driver="here", command=("true",), typed_by=machine.account()))
        resumed = (await ledger.execute(RUN_ID, c.Resume(), actor="user:x", tenant="default")).run

        async with claims.waiting(RUN_ID):
            beside = await rest_unattended(ledger, log, [resumed], data=tmp_path)
        after = await rest_unattended(ledger, log, [resumed], data=tmp_path)
        run = await ledger.state(RUN_ID)
    finally:
        await claims.close()
        await log.close()

    assert (resumed.status, beside, after, run.status) == ("queued", [], [RUN_ID], "paused")


async def stopped(ledger: Ledger, order: e.RunQueued) -> Any:
    opened = c.StartHere(queued=order, worker="w")
    await ledger.execute(RUN_ID, opened, actor="user:x", tenant="default")
    return (await ledger.execute(RUN_ID, c.Stop(claim=1), actor="worker:w", tenant="default")).run


def until_status(data: Path, run_id: str, status: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while read(data, "status", run_id)["status"] != status:
        assert time.monotonic() < deadline
