"""A file that is sent is closed, however the answer ends."""

import asyncio
import io
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from api.sending import SentFile

PATIENCE_SECONDS = 30


class HeldFile(SentFile):
    """A file whose opening thread waits until it may go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.is_opening, self.go_on, self.has_told = threading.Event(), threading.Event(), threading.Event()
        self.file: io.BufferedReader | None = None

    def _get_file_path_stat_encoding(self, accept_encoding: str) -> Any:
        self.is_opening.set()
        assert self.go_on.wait(PATIENCE_SECONDS)
        return super()._get_file_path_stat_encoding(accept_encoding)

    def _make_response(self, request: web.BaseRequest, accept_encoding: str) -> Any:
        made = super()._make_response(request, accept_encoding)
        self.file = made[1]
        self.has_told.set()
        return made


@pytest.mark.parametrize("opened", [False, True])
async def test_a_file_is_closed_if_its_client_goes_while_it_is_opened(tmp_path: Path, opened: bool) -> None:
    path = tmp_path / "page.js"
    path.write_text("1")
    sent = HeldFile(path)
    answering = asyncio.ensure_future(sent.prepare(make_mocked_request("GET", "/page.js")))
    assert await asyncio.to_thread(sent.is_opening.wait, PATIENCE_SECONDS)

    if opened:  # The loop is held too: it has not heard that the file is open when the client goes.
        sent.go_on.set()
        assert sent.has_told.wait(PATIENCE_SECONDS)
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    sent.go_on.set()

    assert await asyncio.to_thread(sent.has_told.wait, PATIENCE_SECONDS)
    assert sent.file is not None
    assert sent.file.closed
