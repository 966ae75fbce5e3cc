"""The way over HTTP: one connection that is kept, and every answer that is none becomes Unreachable."""

import http.client
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from runfold.client.requests import Answer, ArtifactBody, Request, Unreachable, route_of
from runfold.errors import InvalidSetting
from runfold.reporting import STATUS_HEADER

ANSWER_SECONDS = 10.0


class ServerWay:
    def __init__(self, url: str, token: str) -> None:
        """Raises InvalidSetting where the address is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidSetting(
                f"`{url}` is not the address of a server", hint="for example RUNFOLD_URL=http://127.0.0.1:8321"
            )
        self.url = url
        self._token = token
        self._path = parts.path.rstrip("/")
        self._host = parts.netloc.rpartition("@")[2]
        self._is_secure = parts.scheme == "https"
        self._connection: http.client.HTTPConnection | None = None

    def send(self, request: Request) -> Answer:
        """Raises Unreachable; OSError where the file of an artifact cannot be read."""
        method, path = route_of(request)
        target = self._path + quote(path)
        headers = {"Authorization": f"Bearer {self._token}", "Idempotency-Key": request.key}
        if request.do != "artifact":
            return self._ask(method, target, request.body, {**headers, "Content-Type": "application/json"})
        body = msgspec.json.decode(request.body, type=ArtifactBody)
        query = {"media_type": body.media_type} | ({"step": body.step} if body.step else {})
        source = Path(body.path)
        headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(source.stat().st_size)}
        with source.open("rb") as file:
            return self._ask(method, f"{target}?{urlencode(query)}", file, headers)

    def another(self) -> "ServerWay":
        """A way of its own to the same server, for what takes long."""
        return ServerWay(self.url, self._token)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, method: str, target: str, body: Any, headers: dict[str, str]) -> Answer:
        try:
            if self._connection is None:
                kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
                self._connection = kind(self._host, timeout=ANSWER_SECONDS)
            self._connection.request(method, target, body=body, headers=headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(f"the server at {self.url} does not answer: {error}") from error
        if "json" not in response.headers.get("Content-Type", ""):
            raise Unreachable(f"what answers at {self.url} is no runfold server")
        run_status = response.headers.get(STATUS_HEADER, "")
        return Answer(status=response.status, body=msgspec.Raw(content), run_status=run_status)
