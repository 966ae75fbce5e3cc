"""Who may come in: bearer tokens, browser sessions and one-time login codes; only digests are kept."""

import asyncio
import hmac
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from api.session_file import read_sessions, write_sessions
from projections.tokens import TokenBook, digest_of, now_us
from runfold.errors import RunfoldError, Unavailable
from runfold.sessions import SESSIONS_MAX, Session
from runfold.tokens import RANK, Role

SESSION_SECONDS = 7 * 86_400
CODES_MAX = 100
CODE_SECONDS = 600
SHARE_SECONDS = 5.0  # Who logs in waits so long for the servers of a shared log.
LOOK_AGAIN_SECONDS = 0.05  # For secrets that nobody knows the log is asked no more often than that; they wait.
_log = logging.getLogger("runfold.sessions")
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
    """Sessions and codes are bounded in number and time, and end with their token; sessions outlive the server.

    Where the log is shared they are in it, so each of its servers knows them; else in a file beside it.
    """

    def __init__(self, fixed: Mapping[str, Scope], book: TokenBook, *, data: Path, is_shared: bool = False) -> None:
        """`fixed` are scopes by digest that the log need not know, as that of the first start."""
        self._data, self._is_shared = data, is_shared
        self._looking, self._looked_at = asyncio.Lock(), 0.0
        self._fixed = {digest: msgspec.structs.replace(scope, digest=digest) for digest, scope in fixed.items()}
        self._book = book
        self._sessions = read_sessions(data)
        self._codes: dict[str, Session] = {}
        self.on_closed: Callable[[], object] = lambda: None

    def scope_of_token(self, token: str) -> Scope | None:
        return self._scope_of(digest_of(token))

    async def scope_of_given(self, token: str) -> Scope | None:
        """The same of one that another server may have made a moment ago. Raises as `look_again`."""
        scope = self.scope_of_token(token)
        return self.scope_of_token(token) if scope is None and await self.look_again() else scope

    def scope_of_session(self, session: str) -> Scope | None:
        """What its token may still do; None where that was revoked or has expired, or the session was closed."""
        digest = digest_of(session)
        shared = _lookup(self._book.sessions.items(), digest)
        held = _lookup(self._sessions.items(), digest) if shared is None or shared.is_link else shared
        return None if held is None else self._scope_held(held)

    async def look_again(self) -> bool:
        """Read what other servers of a shared log did a moment ago; whether there can be anything.

        Raises Unavailable where the log does not tell: who was let in by another is not to be sent away for that.
        """
        if not self._is_shared:
            return False
        asked_at = time.monotonic()
        async with self._looking:
            # A look that began since has seen it.
            if self._looked_at < asked_at:
                await asyncio.sleep(self._looked_at + LOOK_AGAIN_SECONDS - asked_at)
                self._looked_at = time.monotonic()
                await self._book.refresh()
        if self._book.is_behind:
            raise Unavailable("who is logged in cannot be told now, the log's servers do not answer", hint="try again")
        return True

    async def open_session(self, scope: Scope) -> str:
        """The secret of a new one. Where a shared log takes nothing now, only this server knows it."""
        secret = await self._share(scope, SESSION_SECONDS, is_link=False)
        if secret is None:
            secret = _keep(self._sessions, scope, SESSION_SECONDS, SESSIONS_MAX)
            write_sessions(self._data, self._sessions)
        return secret

    async def close_session(self, session: str) -> None:
        """Raises Contended, Unavailable where the servers of a shared log cannot be told."""
        digest = digest_of(session)
        held = self._book.sessions.get(digest)
        if held is not None:
            scope = self._scope_of(held.token)
            tenant, actor = ("*", "system") if scope is None else (scope.tenant, scope.actor)
            await self._book.close_session(digest, tenant=tenant, actor=actor)
        if self._sessions.pop(digest, None) is not None:
            write_sessions(self._data, self._sessions)
            self.on_closed()

    def make_code(self, scope: Scope) -> str:
        """A code that is good once, at this server."""
        return _keep(self._codes, scope, CODE_SECONDS, CODES_MAX)

    async def make_shared_code(self, scope: Scope) -> str:
        """A code that is good once, at any server of the log."""
        return await self._share(scope, CODE_SECONDS, is_link=True) or self.make_code(scope)

    async def use_code(self, code: str) -> Scope | None:
        """The scope of a code that was not used before; afterwards the code is worth nothing. Raises as a log-out."""
        digest = digest_of(code)
        held = self._codes.pop(digest, None)
        if held is None and (digest in self._book.sessions or await self.look_again()):
            held = self._book.sessions.get(digest)
            scope = None if held is None or not held.is_link else self._scope_held(held)
            if scope is None or not await self._book.close_session(digest, tenant=scope.tenant, actor=scope.actor):
                return None
            return scope
        return None if held is None else self._scope_held(held)

    async def _share(self, scope: Scope, seconds: int, *, is_link: bool) -> str | None:
        """The secret of what all servers of the log know; None where they cannot be told."""
        if not self._is_shared:
            return None
        secret = secrets.token_urlsafe(32)
        session = Session(scope.digest, now_us() + seconds * 1_000_000, is_link)
        try:
            async with asyncio.timeout(SHARE_SECONDS):
                await self._book.open_session(digest_of(secret), session, tenant=scope.tenant, actor=scope.actor)
        except (RunfoldError, TimeoutError) as error:
            _log.warning("a log-in is of this server alone, the log does not take it: %s", error)
            return None
        return secret

    def _scope_held(self, held: Session) -> Scope | None:
        scope = self._scope_of(held.token)
        if scope is None or held.expires_at_us <= now_us():
            return None
        ends = scope.expires_at_us
        return msgspec.structs.replace(
            scope, expires_at_us=held.expires_at_us if ends is None else min(ends, held.expires_at_us)
        )

    def _scope_of(self, digest: str) -> Scope | None:
        token = _lookup(self._book.by_digest(), digest)
        if token is None:
            return _lookup(self._fixed.items(), digest)
        if token.status(now_us()) != "active":
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


def _keep(held: dict[str, Session], scope: Scope, seconds: int, limit: int) -> str:
    secret = secrets.token_urlsafe(32)
    while len(held) >= limit:
        held.pop(next(iter(held)))
    held[digest_of(secret)] = Session(scope.digest, now_us() + seconds * 1_000_000)
    return secret
