"""The tokens and sessions that the log knows: read from its system stream as far as it goes, and written there."""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, ItemsView
from contextlib import aclosing
from typing import TypeAlias

from eventstore.contract import EventLog
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM, NewEvent, time_text
from runfold.errors import Conflict, Contended, RunfoldError
from runfold.events import SessionClosed, SessionOpened, TokenCreated, TokenRevoked, encode_data, event_type
from runfold.ordered_ids import ordered_id
from runfold.sessions import Session, fold_session
from runfold.tokens import EXPIRES_BY_DEFAULT, NewToken, Token, TokenItem, create, find, fold_token, item_of

TRIES = 8
AGAIN_SECONDS = 1.0
PREFIX = "rf_"
_log = logging.getLogger("runfold.tokens")
Said: TypeAlias = TokenCreated | TokenRevoked | SessionOpened | SessionClosed


def now_us() -> int:
    return time.time_ns() // 1_000


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class TokenBook:
    def __init__(self, log: EventLog, on_revoked: Callable[[], object] = lambda: None) -> None:
        """`on_revoked` is told whenever a token or a session is worth nothing any more, whoever ended it."""
        self._log = log
        self._on_revoked = on_revoked
        self._known: dict[str, Token] = {}
        self.sessions: dict[str, Session] = {}
        """Those of a shared log, by the sha256 of their secret."""
        self._last = 0  # The position of the last event of the stream, which an append has to name.
        self._after = 0

    def every(self) -> list[Token]:
        """All that were ever made, the newest first."""
        return list(reversed(self._known.values()))

    def by_digest(self) -> ItemsView[str, Token]:
        """The same, each under its digest: also those that are revoked or have expired."""
        return self._known.items()

    def live(self) -> list[Token]:
        now = now_us()
        return [token for token in self._known.values() if token.status(now) == "active"]

    @property
    def is_behind(self) -> bool:
        """Whether other machines may have told what is not known here."""
        return self._log.behind_seconds > 0

    async def refresh(self) -> None:
        """Read on to the end of the log."""
        async for page in self._log.read(after=self._after, stream=SYSTEM_STREAM):
            for recorded in page.events:
                if recorded.position <= self._last:
                    continue  # Another reading was here first; what ended since must not begin again.
                fold_token(self._known, recorded)
                fold_session(self.sessions, recorded)
                self._last = recorded.position
                if recorded.type in ("token_revoked", "session_closed"):
                    self._on_revoked()
            self._after = max(self._after, page.scanned_to)

    async def follow(self) -> None:
        """Read on whenever there is more, until cancelled; whatever process wrote it."""
        while True:
            try:
                await self.refresh()
                async with aclosing(self._log.tail(after=self._after, stream=SYSTEM_STREAM)) as pages:
                    async for page in pages:
                        if page.events:
                            await self.refresh()
            except (RunfoldError, sqlite3.Error) as error:
                _log.warning("what others do to tokens is not seen: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def create(
        self, *, name: str, tenant: str, role: str, actor: str, expires: str = EXPIRES_BY_DEFAULT
    ) -> NewToken:
        """A new token with its secret, which only its caller ever sees. Raises BadRequest, NotAllowed, Contended."""
        secret = PREFIX + secrets.token_urlsafe(32)
        digest = digest_of(secret)

        def decide() -> TokenCreated:
            return create(
                self._known, digest=digest, name=name, tenant=tenant, role=role, expires=expires, now_us=now_us()
            )

        await self._append(decide, lambda _: tenant, actor)
        return NewToken(secret=secret, token=item_of(self._known[digest], now_us()))

    async def revoke(self, text: str, *, actor: str, tenant: str | None = None, reason: str = "") -> TokenItem:
        """Revoke the token of an id or a name, of one tenant or of any; again changes nothing. Raises NotFound."""
        found: list[Token] = []

        def decide() -> TokenRevoked | None:
            mine = [token for token in self._known.values() if tenant in (None, token.tenant)]
            found[:] = [find(mine, text, now_us())]
            return None if found[0].revoked_at_us is not None else TokenRevoked(digest=found[0].digest, reason=reason)

        await self._append(decide, lambda _: found[0].tenant, actor)
        return item_of(self._known[found[0].digest], now_us())

    async def share(self, digest: str, *, name: str, actor: str) -> None:
        """Let all servers know the token of a folder; an older one of that name is revoked. Raises NotAllowed."""
        await self.refresh()
        for token in self.live():
            if (token.name, token.tenant) == (name, "*") and token.digest != digest:
                await self.revoke(token.token_id, actor=actor, reason="the folder has a new one")

        def decide() -> TokenCreated | None:
            if digest in self._known:
                return None
            return create(
                self._known, digest=digest, name=name, tenant="*", role="admin", expires="never", now_us=now_us()
            )

        await self._append(decide, lambda _: "*", actor)

    def is_over(self, digest: str) -> bool:
        """Whether the log knows a token as revoked or expired."""
        token = self._known.get(digest)
        return token is not None and token.status(now_us()) != "active"

    async def open_session(self, digest: str, session: Session, *, tenant: str, actor: str) -> None:
        """Let all servers know a session or a link. Raises Contended, Unavailable."""
        opened = SessionOpened(
            digest=digest, token=session.token, expires_at=time_text(session.expires_at_us), is_link=session.is_link
        )
        await self._append(lambda: opened, lambda _: tenant, actor)

    async def close_session(self, digest: str, *, tenant: str, actor: str) -> bool:
        """Whether it was open until now: of two who use one link, one is told so. Raises Contended, Unavailable."""
        closed = SessionClosed(digest=digest)
        return await self._append(lambda: closed if digest in self.sessions else None, lambda _: tenant, actor)

    async def _append(self, decide: Callable[[], Said | None], tenant_of: Callable[[Said], str], actor: str) -> bool:
        """Append what is decided on the stream as it is now; where somebody was quicker, decide again.

        Whether there was anything to append.
        """
        for _ in range(TRIES):
            await self.refresh()
            event = decide()
            if event is None:
                return False
            new = NewEvent(
                id=ordered_id(),
                type=event_type(event),
                data=encode_data(event),
                at_us=now_us(),
                tenant=tenant_of(event),
                actor=actor,
            )
            try:
                await self._log.append(SYSTEM_STREAM, [new], expected=self._last)
            except Conflict:
                continue
            await self.refresh()
            return True
        raise Contended(f"others wrote to `{SYSTEM_STREAM}` {TRIES} times meanwhile", hint="try again")
