"""Tokens: made and revoked as events, told once, good for what they say, and worth nothing from the moment they end."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.following import Streaming
from api.service import SERVICE
from eventstore.contract import Page
from eventstore.framing import Framed
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections import tokens
from projections.tokens import TokenBook, digest_of
from runfold.envelope import time_text
from runfold.errors import BadRequest, NotAllowed
from runfold.tokens import DAYS_MAX, LIVE_MAX, Token, create, expiry_us
from tests.served import OPERATOR, Served, bearer, serving
from tests.terminal import first_line, read, runfold, started
from tests.working import PATIENCE_SECONDS

NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000
SOON_SECONDS = 30


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


async def make(served: Served, *, name: str = "ci", role: str = "viewer", **body: Any) -> tuple[str, dict[str, Any]]:
    response = await served.ask("POST", "/api/tokens", json={"name": name, "role": role, **body})
    assert response.status == 201, await response.text()
    made = await response.json()
    return made["secret"], made["token"]


async def log_in(served: Served, secret: str) -> dict[str, str]:
    """A session of its own: the client forgets the cookie, which is sent by hand."""
    response = await served.client.post("/session", json={"token": secret})
    served.client.session.cookie_jar.clear()
    return {"Cookie": f"{served.cookie}={response.cookies[served.cookie].value}"}


def wanted(known: dict[str, Token], **given: Any) -> Any:
    said: dict[str, Any] = {
        "digest": "d",
        "name": "ci",
        "tenant": "default",
        "role": "viewer",
        "expires": "1d",
        "now_us": NOW_US,
    }
    return create(known, **{**said, **given})


def live_token(number: int, *, revoked_at_us: int | None = None) -> Token:
    return Token(
        digest=f"{number:064x}",
        name=f"t{number}",
        tenant="default",
        role="viewer",
        created_at_us=1,
        created_by="user:a",
        expires_at_us=None,
        revoked_at_us=revoked_at_us,
    )


async def test_a_token_is_told_once_and_only_its_digest_is_kept(served: Served, tmp_path: Path) -> None:
    secret, token = await make(served, name="ci", role="operator", tenant="team", expires="30d")

    listed = await (await served.ask("GET", "/api/tokens")).json()
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    assert listed["items"] == [token]
    assert (token["name"], token["role"], token["tenant"], token["status"]) == ("ci", "operator", "team", "active")
    assert digest_of(secret)[:12] == token["id"]
    assert secret.encode() not in everything
    assert digest_of(secret).encode() in everything


async def test_a_token_may_do_what_its_role_may_in_its_tenant_and_is_named_by_the_audit(served: Served) -> None:
    viewer, _ = await make(served, name="looker", role="viewer", tenant="team")
    operator, _ = await make(served, name="ci", role="operator", tenant="team")
    boss, _ = await make(served, name="boss", role="admin", tenant="team")

    run_id = await served.open_run(title="a", token=operator)
    seen = await served.ask("GET", f"/api/runs/{run_id}", token=viewer)
    refused = await served.ask("DELETE", f"/api/runs/{run_id}", token=viewer)
    others = await served.ask("GET", f"/api/runs/{run_id}", token=OPERATOR)
    tokens = await (await served.ask("GET", "/api/tokens", token=boss)).json()
    abroad = await served.ask("POST", "/api/tokens", token=boss, json={"name": "x", "role": "viewer", "tenant": "*"})
    session = await (await served.ask("GET", "/session", token=boss)).json()
    opened = await (await served.ask("GET", "/api/audit?type=run_queued", token=viewer)).json()

    assert (seen.status, refused.status, others.status, abroad.status) == (200, 403, 404, 403)
    assert (await refused.json())["hint"] == "it needs role `operator`"
    assert [it["name"] for it in tokens["items"]] == ["boss", "ci", "looker"]
    assert (session["role"], session["tenant"], session["all_tenants"]) == ("admin", "team", False)
    assert [it["actor"] for it in opened["items"]] == ["user:ci"]


async def test_tokens_are_found_by_text_role_and_status(served: Served) -> None:
    for name, role in (("ci-linux", "operator"), ("ci-mac", "viewer"), ("anna", "operator")):
        await make(served, name=name, role=role, tenant="team" if name == "anna" else None)
    await served.ask("DELETE", "/api/tokens/ci-mac", json={})

    async def found(query: str) -> tuple[list[str], int]:
        listed = await (await served.ask("GET", f"/api/tokens?{query}")).json()
        return [item["name"] for item in listed["items"]], listed["total"]

    assert await found("q=CI-") == (["ci-mac", "ci-linux"], 2)
    assert await found("q=TEAM") == (["anna"], 1)
    assert await found("role=operator&limit=1") == (["anna"], 2)
    assert await found("role=operator&limit=1&offset=1") == (["ci-linux"], 2)
    assert await found("status=revoked") == (["ci-mac"], 1)
    assert await found("status=active&q=ci") == (["ci-linux"], 1)
    assert (await served.ask("GET", "/api/tokens?status=lost")).status == 400


async def test_a_revoked_token_ends_its_requests_sessions_links_and_streams_at_once(served: Served) -> None:
    secret, token = await make(served)
    cookie = await log_in(served, secret)
    link = (await (await served.ask("POST", "/session/code", token=secret)).json())["path"]
    by_token = await served.client.get("/api/stream", headers=bearer(secret))
    by_session = await served.client.get("/api/stream", headers=cookie)
    foreign = await served.client.get("/api/stream", headers=bearer(OPERATOR))

    revoked = await served.ask("DELETE", f"/api/tokens/{token['id']}", json={"reason": "left"})
    again = await served.ask("DELETE", "/api/tokens/ci")
    async with asyncio.timeout(SOON_SECONDS):
        ended = [await stream.read() for stream in (by_token, by_session)]
    run_id = await served.open_run(title="after")
    answers = [
        (await served.client.get("/api/runs", headers=bearer(secret))).status,
        (await served.client.get("/api/runs", headers=cookie)).status,
        (await served.client.get(link, allow_redirects=False)).status,
        (await served.client.post("/session", json={"token": secret})).status,
    ]

    assert (revoked.status, (await revoked.json())["status"]) == (200, "revoked")
    assert again.status == 404  # Its name is free again; by its id it is revoked a second time for nothing.
    assert (await served.ask("DELETE", f"/api/tokens/{token['id']}")).status == 200
    assert answers == [401, 401, 401, 401]
    assert not any(b"after" in content for content in ended)
    async with asyncio.timeout(SOON_SECONDS):
        content = b""
        while run_id.encode() not in content:
            content += await foreign.content.readany()
    foreign.close()


async def test_a_log_out_ends_the_streams_of_its_session_and_no_others(served: Served) -> None:
    secret, _ = await make(served)
    cookies = [await log_in(served, secret) for _ in range(2)]
    streams = [await served.client.get("/api/stream", headers=cookie) for cookie in cookies]

    await served.client.delete("/session", headers=cookies[0])
    async with asyncio.timeout(SOON_SECONDS):
        await streams[0].read()

    assert (await served.client.get("/api/runs", headers=cookies[0])).status == 401
    assert (await served.client.get("/api/runs", headers=cookies[1])).status == 200
    assert not streams[1].content.at_eof()
    streams[1].close()


@pytest.mark.parametrize("what", ["log-out", "closing"])
async def test_what_ends_a_stream_while_it_reads_ends_it_as_soon_as_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with serving(tmp_path, streaming=Streaming(keepalive_seconds=3_600)) as served:
        secret, _ = await make(served)
        cookie = await log_in(served, secret)
        framed, readings = served.log.framed, 0

        async def ending(**wanted: Any) -> Framed:
            nonlocal readings
            page, readings = await framed(**wanted), readings + 1
            if readings == 2 and what == "log-out":
                await served.client.delete("/session", headers=cookie)
            elif readings == 2:
                served.app[SERVICE].closing.set()
                served.app[SERVICE].live.wake()
            return page

        monkeypatch.setattr(served.log, "framed", ending)
        stream = await served.client.get("/api/stream", headers=cookie)
        async with asyncio.timeout(SOON_SECONDS):
            await stream.read()

        assert readings == 2


async def test_what_another_process_does_to_tokens_holds_for_a_running_server(served: Served, tmp_path: Path) -> None:
    other = await SqliteLog.open(tmp_path)
    try:
        book = TokenBook(other)
        made = await book.create(name="far", tenant="default", role="viewer", actor="user:anna")

        async def until(status: int) -> None:
            async with asyncio.timeout(SOON_SECONDS):
                while (await served.client.get("/api/runs", headers=bearer(made.secret))).status != status:
                    pass

        await until(200)
        stream = await served.client.get("/api/stream", headers=bearer(made.secret))
        await book.revoke("far", actor="user:anna")
        await until(401)
        async with asyncio.timeout(SOON_SECONDS):
            await stream.read()
    finally:
        await other.close()


@pytest.mark.slow
async def test_a_token_that_expires_ends_its_streams_and_opens_nothing_more(served: Served) -> None:
    # Three seconds are little where the machine is busy with something else: then more of them.
    for seconds in (3, 30):
        ends_us = time.time_ns() // 1_000 + seconds * 1_000_000
        secret, token = await make(served, name=f"for-{seconds}", expires=time_text(ends_us))
        logged_in = await served.client.post("/session", json={"token": secret})
        served.client.session.cookie_jar.clear()
        cookie = {"Cookie": f"{served.cookie}={logged_in.cookies[served.cookie].value}"} if logged_in.cookies else {}
        streams = [await served.client.get("/api/stream", headers=it) for it in (bearer(secret), cookie)]
        opened = [response.status for response in (logged_in, *streams)]
        if opened == [204, 200, 200]:
            break
    async with asyncio.timeout(PATIENCE_SECONDS):
        for stream in streams:
            await stream.read()
    over = await (await served.ask("GET", "/api/tokens")).json()

    assert opened == [204, 200, 200]
    assert time.time_ns() // 1_000 >= ends_us
    assert [(await served.client.get("/api/runs", headers=it)).status for it in (bearer(secret), cookie)] == [401, 401]
    assert {it["id"]: it["status"] for it in over["items"]}[token["id"]] == "expired"


async def test_a_log_that_could_not_be_read_for_a_while_hides_nothing_that_others_did_to_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "AGAIN_SECONDS", 0.01)
    log, revoked, reads = await SqliteLog.open(tmp_path), asyncio.Event(), list[object]()
    here, elsewhere, read = TokenBook(log, on_revoked=revoked.set), TokenBook(log), log.read

    def read_later(**asked: Any) -> AsyncIterator[Page]:
        reads.append(asked)
        if len(reads) == 1:
            raise sqlite3.OperationalError("disk I/O error")
        return read(**asked)

    await elsewhere.create(name="ci", tenant="default", role="viewer", actor="user:a")
    monkeypatch.setattr(log, "read", read_later)
    following = asyncio.create_task(here.follow())
    try:
        await asyncio.sleep(0)  # So that it is the one who reads first.
        await elsewhere.revoke("ci", actor="user:a")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await revoked.wait()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await log.close()

    assert [token.revoked_at_us is None for token in here.every()] == [False]


async def test_of_two_who_make_the_same_name_at_once_one_is_refused(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    try:
        books = [TokenBook(log) for _ in range(8)]

        made = await asyncio.gather(
            *(book.create(name="ci", tenant="default", role="viewer", actor="user:a") for book in books),
            return_exceptions=True,
        )
        await books[0].refresh()
    finally:
        await log.close()

    assert sum(isinstance(it, NotAllowed) for it in made) == 7
    assert len(books[0].every()) == 1


def test_rules_of_a_new_token() -> None:
    live = {str(number): live_token(number) for number in range(LIVE_MAX)}

    for given in (
        {"role": "root"},
        {"tenant": "Team"},
        {"tenant": "a*"},
        {"name": ""},
        {"name": "a b"},
        {"name": "a:b"},
        {"expires": "soon"},
        {"expires": "2001-01-01"},
        {"expires": f"{DAYS_MAX + 1}d"},
        {"expires": "0d"},
    ):
        with pytest.raises(BadRequest):
            wanted({}, **given)
    with pytest.raises(NotAllowed, match=f"there are {LIVE_MAX} tokens"):
        wanted(live)
    with pytest.raises(NotAllowed, match="has a token `t7` already"):
        wanted({"7": live["7"]}, name="t7")
    assert wanted({"7": live_token(7, revoked_at_us=2)}, name="t7").name == "t7"
    assert wanted({"7": live["7"]}, name="t7", tenant="*").tenant == "*"


def test_an_expiry_is_a_span_a_moment_or_never() -> None:
    assert expiry_us("12h", NOW_US) == NOW_US + DAY_US // 2
    assert expiry_us("30d", NOW_US) == NOW_US + 30 * DAY_US
    assert expiry_us("2027-06-01", NOW_US) == expiry_us("2027-06-01T02:00:00+02:00", NOW_US)
    assert expiry_us("never", NOW_US) is None


@pytest.mark.slow
def test_tokens_are_made_listed_and_revoked_on_a_terminal_here_and_through_a_server(tmp_path: Path) -> None:
    first = runfold(
        tmp_path, "token", "create", "--tenant", "*", "--role", "admin", "--name", "boss", "--expires", "never"
    )
    with started(tmp_path, "up", "--port", "0") as server:
        url = first_line(server).partition("/login")[0]
        there = {"RUNFOLD_URL": url, "RUNFOLD_TOKEN": first.stdout.strip()}
        made = read(tmp_path, "token", "create", "--role", "viewer", "--name", "ci", **there)
        listed = [read(tmp_path, "token", "list", **more)["items"] for more in ({}, there)]
        looked = runfold(tmp_path, "ps", RUNFOLD_URL=url, RUNFOLD_TOKEN=made["secret"])
        touched = runfold(tmp_path, "token", "list", RUNFOLD_URL=url, RUNFOLD_TOKEN=made["secret"])
        revoked = runfold(tmp_path, "token", "revoke", "ci")
        out = runfold(tmp_path, "ps", RUNFOLD_URL=url, RUNFOLD_TOKEN=made["secret"])
        opened = runfold(tmp_path, "open", "--no-browser", RUNFOLD_URL=url, RUNFOLD_TOKEN=first.stdout.strip())

    assert (first.returncode, len(first.stdout.split())) == (0, 1), first.stderr
    assert "never expires; it is shown only now" in first.stderr
    assert listed[0] == listed[1]
    assert [it["name"] for it in listed[0]] == ["ci", "boss"]
    assert made["secret"] not in json.dumps(listed)
    assert (looked.returncode, touched.returncode, revoked.returncode, out.returncode) == (0, 1, 0, 1)
    assert "it needs role `admin`" in touched.stderr
    assert re.fullmatch(re.escape(url) + r"/login\?code=[\w-]+&next=/\n", opened.stdout)


@pytest.mark.slow
def test_the_page_of_a_run_is_opened_by_a_link_that_logs_in(tmp_path: Path) -> None:
    runfold(tmp_path, "run", "--quiet", "--", "true")
    alone = runfold(tmp_path, "open", "@last")
    with started(tmp_path, "up", "--port", "0", "--no-browser") as server:
        first_line(server)
        run_id = read(tmp_path, "ps")["items"][0]["id"]
        opened = runfold(tmp_path, "open", "@last", DISPLAY="", WAYLAND_DISPLAY="")

    assert (alone.returncode, "`runfold up` starts one" in alone.stderr) == (1, True)
    assert opened.stdout.strip().endswith(f"&next=/runs/{run_id}")
