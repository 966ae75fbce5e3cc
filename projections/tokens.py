"""The tokens that the log knows: read from its system stream as far as it goes, made and revoked as events there."""

import asyncio
import hashlib
import logging
import secrets
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing

from eventstore.contract import EventLog
from runfold.envelope import SYSTEM_STREAM, NewEvent
from runfold.errors import Conflict, Contended, RunfoldError
from runfold.events import TokenCreated, TokenRevoked, encode_data, event_type
from runfold.tokens import EXPIRES_BY_DEFAULT, NewToken, Token, TokenItem, create, find, fold_token, item_of

TRIES = 8
AGAIN_SECONDS = 1.0
PREFIX = "rf_"
_log = logging.getLogger("runfold.tokens")


def now_us() -> int:
    return time.time_ns() // 1_000


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class TokenBook:
    def __init__(self, log: EventLog, on_revoked: Callable[[], object] = lambda: None) -> None:
        """`on_revoked` is told whenever a token is worth nothing any more, whoever revoked it."""
        self._log = log
        self._on_revoked = on_revoked
        self._known: dict[str, Token] = {}
        self._last = 0  # The position of the last event of the stream, which an append has to name.
        self._after = 0

    def every(self) -> list[Token]:
        """All that were ever made, the newest first."""
        return list(reversed(self._known.values()))

    def live(self) -> list[Token]:
        now = now_us()
        return [token for token in self._known.values() if token.status(now) == "active"]

    async def refresh(self) -> None:
        """Read on to the end of the log."""
        async for page in self._log.read(after=self._after, stream=SYSTEM_STREAM):
            for recorded in page.events:
                fold_token(self._known, recorded)
                self._last = max(self._last, recorded.position)
                if recorded.type == "token_revoked":
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
            except RunfoldError as error:
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

    async def _append(
        self,
        decide: Callable[[], TokenCreated | TokenRevoked | None],
        tenant_of: Callable[[TokenCreated | TokenRevoked], str],
        actor: str,
    ) -> None:
        """Append what is decided on the stream as it is now; where somebody was quicker, decide again."""
        for _ in range(TRIES):
            await self.refresh()
            event = decide()
            if event is None:
                return
            new = NewEvent(
                id=str(uuid.uuid4()),
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
            return
        raise Contended(f"others wrote to `{SYSTEM_STREAM}` {TRIES} times meanwhile", hint="try again")
