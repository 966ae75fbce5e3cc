"""Two servers of one log behind one address: whoever is moved from one to the other misses nothing."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, suppress
from typing import Any

import aiohttp
import pytest

from tests.contract.jetstream import shared_cluster
from tests.served import bearer, note
from tests.terminal import first_line, read, started
from tests.wires import Wire

EVENTS = 2_000
BATCH = 50
MOVES = 8
WITHIN_SECONDS = 60
OUT_SECONDS = 60.0  # Far beyond what it takes, for a machine that is busy.
NAME = "runs.example.org"
pytestmark = pytest.mark.slow


class Servers:
    """Real ones, each with a folder of its own; `token` is known to both, for it is in the log.

    `links` are those that they printed, each good once.
    """

    def __init__(self, links: list[str], token: str) -> None:
        self.urls, self.token = [link.partition("/login")[0] for link in links], token
        self.links = [link.removeprefix(url) for link, url in zip(links, self.urls, strict=True)]

    async def ask(self, number: int, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession(headers=bearer(self.token)) as client,
            client.request(method, self.urls[number] + path, **options) as answer,
        ):
            return answer.status, await answer.json()

    async def open_run(self) -> str:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        status, run = await self.ask(0, "POST", "/api/runs/external", headers=headers, json={"title": "t"})
        assert status == 201
        return str(run["id"])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Generator[Servers]:
    folder, log = tmp_path_factory.mktemp("servers"), shared_cluster().url(f"t{uuid.uuid4().hex}")
    up = ("--log", log, "up", "--port", "0", "--workers", "0", "--no-browser")
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(folder / name, *up, cwd=folder, RUNFOLD_PUBLIC_HOSTS=f"other.example,{NAME}"))
            for name in ("one", "two")
        ]
        links = [first_line(process) for process in processes]
        secret = read(folder / "one", "token", "create", "--role", "operator")["secret"]
        yield Servers(links, secret)


class Switch:
    """One address; whoever connects reaches the server that is chosen, and `move` cuts all who are on the other."""

    def __init__(self, urls: list[str]) -> None:
        self._chosen, self._other = [int(url.rpartition(":")[2]) for url in urls]
        self._wire = Wire(self._chosen)

    async def start(self) -> str:
        return f"http://127.0.0.1:{await self._wire.start()}"

    @property
    def reached(self) -> list[int]:
        return self._wire.reached

    def move(self) -> None:
        self._chosen, self._other = self._other, self._chosen
        self._wire.lead_to(self._chosen)

    async def close(self) -> None:
        await self._wire.close()


async def frames(address: str, path: str, token: str) -> AsyncGenerator[dict[str, Any], None]:
    """The stream as a browser reads it: cut off, it comes back with the id of the last event that it had."""
    after = ""
    async with aiohttp.ClientSession(headers=bearer(token)) as client:
        while True:
            with suppress(aiohttp.ClientError, ConnectionError):
                headers = {"Last-Event-ID": after} if after else {}
                async with client.get(address + path, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()
                    frame: dict[str, str] = {}
                    async for line in answer.content:
                        name, _, value = line.decode().rstrip("\n").partition(": ")
                        if name:
                            frame[name] = value
                        elif "id" in frame and "data" in frame:
                            after = frame["id"]
                            yield json.loads(frame["data"])
                            frame = {}
                        else:
                            frame = {}


async def test_a_stream_that_is_moved_between_servers_has_no_gap_and_nothing_twice(servers: Servers) -> None:
    run_id = await servers.open_run()
    switch = Switch(servers.urls)
    address = await switch.start()
    seen: list[int] = []

    async def write() -> None:
        for first in range(0, EVENTS, BATCH):
            events = [note(number) for number in range(first, first + BATCH)]
            number = first // BATCH % 2
            status, answer = await servers.ask(number, "POST", f"/api/runs/{run_id}/events", json={"events": events})
            assert status < 300, answer

    async def follow() -> None:
        moved = 0
        async for event in frames(address, f"/api/runs/{run_id}/stream?after=0", servers.token):
            seen.append(event["version"])
            if len(seen) > (moved + 1) * EVENTS // (MOVES + 1):
                switch.move()
                moved += 1
            if len(seen) >= EVENTS + 2:
                return

    try:
        async with asyncio.timeout(WITHIN_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(write())
            group.create_task(follow())
    finally:
        await switch.close()

    assert seen == list(range(1, EVENTS + 3))
    assert len(switch.reached) > MOVES
    assert len(set(switch.reached)) == 2


async def test_what_was_written_at_one_server_is_read_at_the_other_or_the_answer_says_that_it_is_old(
    servers: Servers,
) -> None:
    run_id, position = await servers.open_run(), 0
    for number in range(20):
        at, there = number % 2, 1 - number % 2
        _, written = await servers.ask(at, "POST", f"/api/runs/{run_id}/events", json={"events": [note(number)]})
        position = written["last"]

        found = {"stale": True}
        async with asyncio.timeout(WITHIN_SECONDS):
            while found.get("stale"):
                _, found = await servers.ask(there, "GET", f"/api/runs/{run_id}?min_position={position}")

        assert found["version"] == number + 3
        assert found["position"] >= position

    _, ahead = await servers.ask(1, "GET", f"/api/runs/{run_id}?min_position={position + 1000}")
    assert ahead["stale"] is True
    assert ahead["version"] == 22


async def _status(browser: aiohttp.ClientSession, path: str, method: str = "GET") -> int:
    async with browser.request(method, path, allow_redirects=False) as answer:
        return answer.status


@pytest.mark.parametrize("way", ["link", "token"])
async def test_who_logs_in_at_one_server_is_known_to_the_other_until_he_logs_out(servers: Servers, way: str) -> None:
    switch = Switch(servers.urls)
    address = await switch.start()
    jar = aiohttp.CookieJar(unsafe=True)
    try:
        async with aiohttp.ClientSession(address, cookie_jar=jar) as browser:
            if way == "link":
                assert await _status(browser, servers.links[0]) == 303
            else:
                assert (await browser.post("/session", json={"token": servers.token})).status == 204
            switch.move()
            assert await _status(browser, "/api/runs") == 200
            (cookie,) = jar
            # As the address passes it on.
            headers = {"Host": address.removeprefix("http://"), "Cookie": f"{cookie.key}={cookie.value}"}
            async with aiohttp.ClientSession(servers.urls[0], headers=headers) as first:
                stream = await first.get("/api/stream")

                out = await _status(browser, "/session", "DELETE")
                async with asyncio.timeout(OUT_SECONDS):
                    await stream.read()

                assert (stream.status, out) == (200, 204)
                assert await _status(first, "/api/runs") == 401
            assert await _status(browser, "/api/runs") == 401
    finally:
        await switch.close()


async def test_a_link_that_logs_in_is_good_once_at_whichever_server(servers: Servers) -> None:
    (_, one), (_, made) = [await servers.ask(0, "POST", "/session/code") for _ in range(2)]
    async with aiohttp.ClientSession() as browser:
        assert [await _status(browser, servers.urls[1] + one["path"]) for _ in range(2)] == [303, 401]
        used = await asyncio.gather(
            *(_status(browser, servers.urls[number % 2] + made["path"]) for number in range(8)), return_exceptions=True
        )

        assert sorted(map(str, used)) == ["303", *["401"] * 7]


async def test_behind_one_name_all_servers_give_and_take_the_same_cookie(servers: Servers) -> None:
    headers = {"Host": NAME, "X-Forwarded-Proto": "https", "Origin": f"https://{NAME}"}
    async with aiohttp.ClientSession(headers=headers, cookie_jar=aiohttp.DummyCookieJar()) as browser:
        async with browser.post(f"{servers.urls[0]}/session", json={"token": servers.token}) as answer:
            ((name, cookie),) = answer.cookies.items()
        listed = 503  # For as long as the log's servers do not tell in time.
        async with asyncio.timeout(WITHIN_SECONDS):
            while listed == 503:
                headers = {"Cookie": f"{name}={cookie.value}"}
                async with browser.get(f"{servers.urls[1]}/api/runs", headers=headers) as answered:
                    listed = answered.status
        async with browser.get(f"{servers.urls[1]}/api/runs", headers={"Host": "elsewhere.example"}) as foreign:
            refused = foreign.status

    assert (answer.status, listed, refused) == (204, 200, 421)
    assert (cookie["secure"], cookie["httponly"]) == (True, True)
