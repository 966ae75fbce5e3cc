"""Every failure is answered as RFC 9457 problem+json, and every response carries the same strict headers."""

import logging
from typing import Any

import msgspec
from aiohttp import web

from runfold.errors import BadRequest, Gone, NotFound, RunfoldError, TooLarge, Unauthorized, Unavailable

_log = logging.getLogger("runfold.api")
_STRICT = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
CSP_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
# The library that shows the API draws its arrows with images that stand in its own style sheet.
CSP_DOCS = CSP_PAGE.replace("img-src 'self'", "img-src 'self' data:")


UNLESS_SAID = {"Content-Security-Policy": _STRICT, "Cache-Control": "no-store"}
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong. `code` is stable; `hint` says what to do next; `earliest` and `snapshot` (where the
    present state is) are set where a cursor is gone."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    run_id: str | None = None
    earliest: int | None = None
    snapshot: str | None = None


class NotThatMethod(BadRequest):
    code, status = "method_not_allowed", 405


_TITLES = {
    400: "Bad request",
    401: "Not logged in",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    410: "Gone",
    413: "Too large",
    415: "Unsupported media type",
    421: "Misdirected request",
    422: "Idempotency key reused",
    500: "Internal error",
    503: "Unavailable",
}


def problem_response(error: RunfoldError) -> web.Response:
    gone = error if isinstance(error, Gone) else None
    problem = Problem(
        type=f"urn:runfold:problem:{error.code}",
        title=_TITLES.get(error.status, "Error"),
        status=error.status,
        detail=error.message,
        code=error.code,
        hint=error.hint,
        run_id=error.run_id,
        earliest=None if gone is None else gone.earliest,
        snapshot=None if gone is None else f"/api/runs/{gone.run_id}" if gone.run_id else "/api/runs",
    )
    headers: dict[str, str] = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
    return web.Response(
        body=msgspec.json.encode(problem), status=error.status, content_type="application/problem+json", headers=headers
    )


def problem_of(request: web.Request, error: Exception) -> web.Response:
    """What handlers and aiohttp raise, as a problem; what nobody foresaw is logged and answered without detail.

    Raises the error again where it is an answer already, or nobody is left to answer.
    """
    match error:
        case RunfoldError():
            if error.status >= 500 and not isinstance(error, Unavailable):
                _log.error("request failed", exc_info=error)
            return problem_response(error)
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            response = problem_response(
                NotThatMethod(f"`{request.path}` does not take {request.method}", hint=f"it takes {allowed}")
            )
            response.headers["Allow"] = allowed
            return response
        case web.HTTPRequestEntityTooLarge():
            return problem_response(TooLarge("the request body is larger than 1 MiB", hint="send it in smaller parts"))
        case web.HTTPNotFound():
            return problem_response(NotFound(f"nothing is at `{request.path}`", hint="see `/api/openapi.json`"))
        case web.HTTPException() if error.status >= 400:
            return problem_response(BadRequest(error.reason.lower()))
        case web.HTTPException() | ConnectionError():
            raise error
        case _:
            _log.error("request failed", exc_info=error)
            return problem_response(RunfoldError("an error that nobody foresaw", hint="the server's log says more"))


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Runs for every response just before its head is sent, streams included."""
    if isinstance(response, web.HTTPNotFound):
        # Of an address that has no path at all, not even `/`: the router asks nobody for that.
        problem = problem_of(request, response)
        response.body, response.content_type, response.charset = problem.body, problem.content_type, None
    headers: Any = response.headers
    for name, value in UNLESS_SAID.items():
        headers.setdefault(name, value)
    headers.update(ALWAYS)
    headers.popall("Server", None)
