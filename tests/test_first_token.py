"""The token of a folder's first start: on a shared log every server knows it, and anybody in charge can revoke it."""

import threading
import uuid
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from api.app import make_app
from api.service import SERVICE
from cli.first_token import first_token, local_token, token_name
from eventstore.jetstream.address import parse_address
from eventstore.jetstream.log import JetStreamLog
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.service import ViewService
from projections.tokens import TokenBook
from runfold.client.place import TOKEN_FILE
from runfold.errors import InvalidSetting
from tests.contract.jetstream import shared_cluster

MAKERS = 8


class Server:
    """One of a shared log, as `runfold up` makes it."""

    def __init__(self, log: JetStreamLog, views: ViewService, data: Path) -> None:
        self._log, self._views, self.data = log, views, data

    async def start(self) -> str:
        self.token = await first_token(self._log, self.data)
        app = make_app(
            log=self._log,
            ledger=Ledger(self._log),
            views=self._views,
            data=self.data,
            token=self.token,
            allowed_hosts=frozenset(),
        )
        self._sessions, self._book = app[SERVICE].sessions, app[SERVICE].tokens
        return self.token

    async def knows(self, token: str) -> bool:
        await self._book.refresh()
        scope = self._sessions.scope_of_token(token)
        return scope is not None and (scope.tenant, scope.role) == ("*", "admin")

    async def revoke(self, name: str) -> None:
        await self._book.revoke(name, actor="user:a")


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncGenerator[list[Server]]:
    address = parse_address(shared_cluster().url(f"t{uuid.uuid4().hex}"))
    async with AsyncExitStack() as stack:
        made: list[Server] = []
        for name in ("one", "two"):
            log = await JetStreamLog.connect(address, tmp_path / name)
            stack.push_async_callback(log.close)
            views = await ViewService.open(tmp_path / name)
            stack.push_async_callback(views.close)
            made.append(Server(log, views, tmp_path / name))
            await made[-1].start()
        yield made


@pytest.mark.slow
async def test_the_first_token_of_a_folder_is_good_at_every_server_until_it_is_revoked_at_one(
    servers: list[Server],
) -> None:
    one, two = servers
    before = [await two.knows(one.token), await one.knows(two.token)]

    await two.revoke(token_name(one.data))
    old, new = one.token, await one.start()

    assert before == [True, True]
    assert new == (one.data / "token").read_text().strip() != old
    assert [await server.knows(old) for server in servers] == [False, False]
    assert [await server.knows(new) for server in servers] == [True, True]


@pytest.mark.slow
async def test_the_next_token_of_a_folder_takes_the_place_of_its_last(servers: list[Server]) -> None:
    one, two = servers
    old = one.token
    (one.data / "token").unlink()

    new = await one.start()

    assert [await server.knows(old) for server in servers] == [False, False]
    assert await two.knows(new)


async def test_the_first_token_of_a_folder_with_a_log_of_its_own_stands_in_no_event(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    try:
        token = await first_token(log, tmp_path)
        book = TokenBook(log)
        await book.refresh()

        assert (book.every(), (tmp_path / "token").read_text().strip()) == ([], token)
    finally:
        await log.close()


def test_a_token_is_whole_whenever_it_is_read_and_the_same_for_all_who_make_it_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(MAKERS) as makers:
        together = threading.Barrier(MAKERS)

        def make(_: int) -> str:
            together.wait()
            return local_token(tmp_path)

        tokens = set(makers.map(make, range(MAKERS)))

    assert tokens == {(tmp_path / TOKEN_FILE).read_text().strip()}
    assert len(tokens.pop()) == 43
    assert [path.name for path in tmp_path.iterdir()] == [TOKEN_FILE]
    assert (tmp_path / TOKEN_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", bytes(44)], ids=["empty", "blank", "no text", "zeros"])
def test_a_folder_whose_token_is_empty_or_none_is_not_open_to_everybody(tmp_path: Path, content: bytes) -> None:
    (tmp_path / TOKEN_FILE).write_bytes(content)

    with pytest.raises(InvalidSetting, match="holds no token"):
        local_token(tmp_path)
