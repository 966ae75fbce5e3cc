"""Who may come in: bearer tokens, browser sessions and one-time login codes; only digests are kept."""

import hmac
import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from api.session_file import Held, read_sessions, write_sessions
from projections.tokens import TokenBook, digest_of, now_us
from runfold.tokens import RANK, Role

SESSIONS_MAX = 1_000
SESSION_SECONDS = 7 * 86_400
CODES_MAX = 100
CODE_SECONDS = 600
_RANK: dict[str, int] = {str(role): rank for role, rank in RANK.items()}
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
    digest: str = ""
    """Of the token that all this hangs on, a session's too."""

    def may(self, needed: str) -> bool:
        if needed == "root":
            return self.of_all and self.role == "admin"
        return _RANK[self.role] >= _RANK.get(needed, math.inf)


class Sessions:
    """Sessions and codes are bounded in number and time, and end with their token; sessions outlive the server."""

    def __init__(self, fixed: Mapping[str, Scope], book: TokenBook, *, data: Path) -> None:
        """`fixed` are scopes by digest that no log knows, as that of the first start."""
        self._data = data
        self._fixed = {digest: msgspec.structs.replace(scope, digest=digest) for digest, scope in fixed.items()}
        self._book = book
        self._sessions = read_sessions(data)
        self._codes: dict[str, Held] = {}
        self.on_closed: Callable[[], object] = lambda: None

    def scope_of_token(self, token: str) -> Scope | None:
        return self._scope_of(digest_of(token))

    def scope_of_session(self, session: str) -> Scope | None:
        """What its token may still do; None where that was revoked or has expired, or the session was closed."""
        held = _lookup(self._sessions.items(), digest_of(session))
        return None if held is None else self._scope_held(held)

    def open_session(self, scope: Scope) -> str:
        secret = _keep(self._sessions, scope, SESSION_SECONDS, SESSIONS_MAX)
        write_sessions(self._data, self._sessions)
        return secret

    def close_session(self, session: str) -> None:
        if self._sessions.pop(digest_of(session), None) is not None:
            write_sessions(self._data, self._sessions)
            self.on_closed()

    def make_code(self, scope: Scope) -> str:
        return _keep(self._codes, scope, CODE_SECONDS, CODES_MAX)

    def use_code(self, code: str) -> Scope | None:
        """The scope of a code that was not used before; afterwards the code is worth nothing."""
        held = self._codes.pop(digest_of(code), None)
        return None if held is None else self._scope_held(held)

    def _scope_held(self, held: Held) -> Scope | None:
        scope = self._scope_of(held.digest)
        if scope is None or held.expires_at_us <= now_us():
            return None
        ends = scope.expires_at_us
        return msgspec.structs.replace(
            scope, expires_at_us=held.expires_at_us if ends is None else min(ends, held.expires_at_us)
        )

    def _scope_of(self, digest: str) -> Scope | None:
        fixed = _lookup(self._fixed.items(), digest)
        if fixed is not None:
            return fixed
        token = _lookup(((token.digest, token) for token in self._book.live()), digest)
        if token is None:
            return None
        return Scope(
            tenant=token.tenant,
            role=token.role,
            actor=f"user:{token.name}",
            expires_at_us=token.expires_at_us,
            digest=digest,
        )


def _lookup(known: Iterable[tuple[str, _Value]], digest: str) -> _Value | None:
    """In a time that tells nothing of which one it was, or how nearly."""
    found: _Value | None = None
    for candidate, value in known:
        if hmac.compare_digest(candidate, digest):
            found = value
    return found


def _keep(held: dict[str, Held], scope: Scope, seconds: int, limit: int) -> str:
    secret = secrets.token_urlsafe(32)
    while len(held) >= limit:
        held.pop(next(iter(held)))
    held[digest_of(secret)] = Held(scope.digest, now_us() + seconds * 1_000_000)
    return secret
