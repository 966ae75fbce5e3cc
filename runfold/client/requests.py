"""What a client says, one at a time: a request over HTTP, a line to `runfold ingest`, or a line of a spool file."""

from typing import Literal

import msgspec

Do = Literal["open", "report", "control", "heartbeat", "ask", "artifact"]

ROUTES: dict[Do, tuple[str, str]] = {
    "open": ("POST", "/api/runs/external"),
    "report": ("POST", "/api/runs/{run}/events"),
    "control": ("POST", "/api/runs/{run}/control"),
    "heartbeat": ("POST", "/api/runs/{run}/heartbeat"),
    "ask": ("POST", "/api/runs/{run}/approvals"),
    "artifact": ("PUT", "/api/runs/{run}/artifacts/{name}"),
}


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The same key is the same wish, whichever way it goes and however often. `at` is when it was wished."""

    do: Do
    key: str
    run: str = ""
    at: str | None = None
    body: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP status, and the body that goes with it: what is asked for, or a problem. `run_status` is of the run."""

    status: int
    run_status: str = ""
    body: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))


class ArtifactBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file of this machine; over HTTP its bytes are sent."""

    name: str
    path: str
    media_type: str = "application/octet-stream"
    step: str | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer tells of the run, where it tells it."""

    id: str = ""
    status: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    code: str = ""
    detail: str = ""
    hint: str = ""


class Unreachable(Exception):
    """Nobody answered. Whether the request was taken is not known, so it is sent again with the same key."""


encode_request = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Request).decode
decode_answer = msgspec.json.Decoder(Answer).decode


def route_of(request: Request) -> tuple[str, str]:
    """The method and the path, unquoted, that the request has over HTTP; its command id is made of them."""
    method, path = ROUTES[request.do]
    name = msgspec.json.decode(request.body, type=ArtifactBody).name if request.do == "artifact" else ""
    return method, path.format(run=request.run, name=name)
