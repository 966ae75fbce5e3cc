"""Which way a run's requests go now: its server, else the tool, else the spool; and back to the server when it is up.

Every way leads to the same log, and a request keeps its key, so one that was sent twice is there once.
"""

import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import msgspec

from runfold.client.place import data_folder, local_token, read_lock, running_server
from runfold.client.requests import ROUTES, Answer, Request, Told, Unreachable
from runfold.client.server import ServerWay
from runfold.client.spool import SpoolWay
from runfold.client.tool import ToolWay, find_tool
from runfold.envelope import run_id_of
from runfold.reporting import keyed_command_id

Way: TypeAlias = ServerWay | ToolWay | SpoolWay

PATIENCE_SECONDS = 5.0  # So long a server may be away before what is said goes another way.
TOOLS_LOST_MAX = 3  # A tool that ends this often will not do better the next time.
RETRY_SECONDS = 0.05
RETRY_SECONDS_MAX = 1.0
BUSY_STATUSES = frozenset({429, 500, 502, 503, 504})
CLOSED_STATUSES = frozenset({401, 403, 421})
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Ways:
    """Used by one thread. `send` always ends with an answer, however long the server is away."""

    def __init__(self, key: str, *, environ: Mapping[str, str] = os.environ, data: Path | None = None) -> None:
        """`key` is of the request that opens the run; until it is answered the run has the id of this folder's log."""
        self.run = run_id_of(uuid.UUID(keyed_command_id("default", *ROUTES["open"], key)))
        self._data = data_folder(environ=environ) if data is None else data
        self._url = environ.get("RUNFOLD_URL", "").rstrip("/")
        self._token = environ.get("RUNFOLD_TOKEN", "")
        self._tools_lost = 0
        self._way: Way | None = None

    @property
    def server(self) -> ServerWay | None:
        return self._way if isinstance(self._way, ServerWay) else None

    def named_server(self) -> ServerWay | None:
        """A way of its own to the server that RUNFOLD_URL names, where it has just answered."""
        return self.server.another() if self._url and self.server is not None else None

    @property
    def data(self) -> Path:
        return self._data

    def send(self, request: Request) -> Answer:
        """Raises Unreachable only where not even a file can be written."""
        since, pause = time.monotonic(), RETRY_SECONDS
        while True:
            is_late = time.monotonic() - since > PATIENCE_SECONDS
            if is_late and not isinstance(self._way, SpoolWay):
                self._leave()
            self._way = self._way or self._choose(is_late=is_late)
            try:
                answer = self._send(self._way, request)
                if not _is_to_wait(request, answer):
                    return answer
            except Unreachable:
                if isinstance(self._way, SpoolWay):
                    raise
                self._tools_lost += isinstance(self._way, ToolWay)
                self._leave()
            time.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS_MAX)

    def improve(self, heartbeat: Request) -> None:
        """Go back to the server, where there is one again, with all that it has missed."""
        way = self._way
        if way is None or isinstance(way, ServerWay) or (server := self._find_server()) is None:
            return
        try:
            for request in way.requests() if isinstance(way, SpoolWay) else [heartbeat]:
                if _is_to_wait(request, self._send(server, request)):
                    raise Unreachable("it is busy")
        except (Unreachable, OSError):
            server.close()
            return
        if isinstance(way, SpoolWay):
            way.remove()
        else:
            way.close()
        self._way = server

    def close(self) -> None:
        self._leave()

    def _send(self, way: Way, request: Request) -> Answer:
        answer = way.send(msgspec.structs.replace(request, run=self.run))
        if request.do == "open" and answer.status < 300:
            self.run = msgspec.json.decode(answer.body, type=Told).id or self.run
        return answer

    def _leave(self) -> None:
        if self._way is not None:
            self._way.close()
            self._way = None

    def _choose(self, *, is_late: bool) -> Way:
        if not is_late and (server := self._find_server()):
            return server
        if not self._url and self._tools_lost < TOOLS_LOST_MAX and (tool := find_tool()):
            try:
                return ToolWay(tool, self._data)
            except Unreachable:
                self._tools_lost = TOOLS_LOST_MAX
        return SpoolWay(self._data, self.run, self._url)

    def _find_server(self) -> ServerWay | None:
        if self._url:
            own = local_token(self._data) if urlsplit(self._url).hostname in LOOPBACK else ""
            return ServerWay(self._url, self._token or own)
        # The lock is looked at only where it names somebody, so that it is not held while a server starts.
        known = read_lock(self._data)
        up = running_server(self._data) if known and known.url else None
        return ServerWay(up.url, local_token(self._data)) if up and up.url else None


def is_left_open(answer: Answer) -> bool:
    """Whether the same request may be answered otherwise later: the server is busy, or knows the token no more."""
    return answer.status in BUSY_STATUSES or answer.status in CLOSED_STATUSES


def _is_to_wait(request: Request, answer: Answer) -> bool:
    # A token that was good when the run was opened may be good again; what is said meanwhile is not thrown away.
    return is_left_open(answer) and (answer.status in BUSY_STATUSES or request.do != "open")
