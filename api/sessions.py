"""Who may come in: bearer tokens, browser sessions and one-time login codes; only digests are kept."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

Role = Literal["viewer", "operator", "admin"]
RANK: dict[Role, int] = {"viewer": 1, "operator": 2, "admin": 3}
SESSIONS_MAX = 1_000
SESSION_SECONDS = 7 * 86_400
CODES_MAX = 100
CODE_SECONDS = 600
_Value = TypeVar("_Value")


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """For whom a request acts. Tenant `*` may act in any tenant."""

    tenant: str
    role: Role
    actor: str
    of_all: bool = False
    """Whether the token was for all tenants, before the request chose one."""
    expires_at_us: int | None = None
    """When whoever asks has to log in again; None: never."""

    def may(self, needed: str) -> bool:
        if needed == "root":
            return self.of_all and self.role == "admin"
        return any(role == needed and RANK[self.role] >= rank for role, rank in RANK.items())


class _Held(msgspec.Struct, frozen=True):
    scope: Scope
    expires: float


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Sessions:
    """Tokens are given; sessions and codes live as long as the server, and are bounded in number and time."""

    def __init__(self, tokens: Mapping[str, Scope]) -> None:
        self._tokens = dict(tokens)
        self._sessions: dict[str, _Held] = {}
        self._codes: dict[str, _Held] = {}

    def scope_of_token(self, token: str) -> Scope | None:
        return _lookup(self._tokens, digest_of(token))

    def scope_of_session(self, session: str) -> Scope | None:
        held = _lookup(self._sessions, digest_of(session))
        return held.scope if held is not None and held.expires > time.monotonic() else None

    def open_session(self, scope: Scope) -> str:
        ends_us = time.time_ns() // 1_000 + SESSION_SECONDS * 1_000_000
        scope = msgspec.structs.replace(scope, expires_at_us=min(scope.expires_at_us or ends_us, ends_us))
        return _keep(self._sessions, scope, SESSION_SECONDS, SESSIONS_MAX)

    def close_session(self, session: str) -> None:
        self._sessions.pop(digest_of(session), None)

    def make_code(self, scope: Scope) -> str:
        return _keep(self._codes, scope, CODE_SECONDS, CODES_MAX)

    def use_code(self, code: str) -> Scope | None:
        """The scope of a code that was not used before; afterwards the code is worth nothing."""
        held = self._codes.pop(digest_of(code), None)
        return held.scope if held is not None and held.expires > time.monotonic() else None


def _lookup(known: Mapping[str, _Value], digest: str) -> _Value | None:
    found: _Value | None = None
    for candidate, value in known.items():
        if hmac.compare_digest(candidate, digest):
            found = value
    return found


def _keep(held: dict[str, _Held], scope: Scope, seconds: float, limit: int) -> str:
    secret = secrets.token_urlsafe(32)
    while len(held) >= limit:
        held.pop(next(iter(held)))
    held[digest_of(secret)] = _Held(scope, time.monotonic() + seconds)
    return secret
