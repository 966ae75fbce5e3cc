"""Tokens: who may come in, for which tenant, as what, and until when; their rules, over what the log says of them."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import msgspec

from runfold.envelope import A_MOMENT, Recorded, moment_us, time_text, time_us
from runfold.errors import BadRequest, InvalidEvent, NotAllowed, NotFound
from runfold.events import TokenCreated, TokenRevoked

Role = Literal["viewer", "operator", "admin"]
RANK: dict[Role, int] = {"viewer": 1, "operator": 2, "admin": 3}
TokenStatus = Literal["active", "expired", "revoked"]
LIVE_MAX = 1_000  # Each request compares with all of them, in a time that does not tell which one it was.
ID_CHARACTERS = 12
EXPIRES_BY_DEFAULT = "90d"
DAYS_MAX = 3_660
_SPAN = re.compile(r"([1-9][0-9]{0,4})([hd])")
_TENANT = re.compile(r"\*|[a-z0-9][a-z0-9_.-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a token: the sha256 of its secret in hex, whose first characters are its id."""

    digest: str
    name: str
    tenant: str
    role: Role
    created_at_us: int
    created_by: str
    expires_at_us: int | None
    revoked_at_us: int | None = None

    @property
    def token_id(self) -> str:
        return self.digest[:ID_CHARACTERS]

    def status(self, now_us: int) -> TokenStatus:
        if self.revoked_at_us is not None:
            return "revoked"
        return "expired" if self.expires_at_us is not None and self.expires_at_us <= now_us else "active"


class TokenItem(msgspec.Struct, frozen=True, kw_only=True):
    """A token as people see it; its secret is told once, when it is made."""

    id: str
    name: str
    tenant: str
    role: Role
    status: TokenStatus
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None


class TokenList(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[TokenItem, ...]
    total: int
    next_cursor: str | None = None


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """`secret` is what to send as the bearer token; nobody can tell it again."""

    secret: str
    token: TokenItem


def item_of(token: Token, now_us: int) -> TokenItem:
    return TokenItem(
        id=token.token_id,
        name=token.name,
        tenant=token.tenant,
        role=token.role,
        status=token.status(now_us),
        created_at=time_text(token.created_at_us),
        created_by=token.created_by,
        expires_at=None if token.expires_at_us is None else time_text(token.expires_at_us),
        revoked_at=None if token.revoked_at_us is None else time_text(token.revoked_at_us),
    )


def fold_token(known: dict[str, Token], recorded: Recorded) -> None:
    """Add what an event of the system stream says of a token; what cannot be read opens no door."""
    if recorded.type not in ("token_created", "token_revoked"):
        return
    try:
        event = recorded.event()
    except InvalidEvent:
        return
    if isinstance(event, TokenCreated) and event.role in RANK and event.digest not in known:
        known[event.digest] = Token(
            digest=event.digest,
            name=event.name,
            tenant=event.tenant,
            role=event.role,
            created_at_us=recorded.at_us,
            created_by=recorded.actor,
            expires_at_us=None if event.expires_at is None else time_us(event.expires_at),
        )
    elif isinstance(event, TokenRevoked) and event.digest in known:
        known[event.digest] = msgspec.structs.replace(known[event.digest], revoked_at_us=recorded.at_us)


def create(
    known: Mapping[str, Token], *, digest: str, name: str, tenant: str, role: str, expires: str, now_us: int
) -> TokenCreated:
    """The event of a new token. Raises BadRequest, and NotAllowed where a live one has that name already."""
    if role not in RANK:
        raise BadRequest(f"role `{role[:40]!a}` is unknown", hint=f"one of {', '.join(get_args(Role))}")
    if not _TENANT.fullmatch(tenant):
        raise BadRequest(f"`{tenant[:80]!a}` is no tenant", hint="letters, digits, `-`, `_` and `.`; `*` means all")
    if not _NAME.fullmatch(name):
        raise BadRequest(f"`{name[:80]!a}` is no name for a token", hint="letters, digits, `-`, `_`, `.` and `@`")
    live = [token for token in known.values() if token.status(now_us) == "active"]
    if any((token.name, token.tenant) == (name, tenant) for token in live):
        raise NotAllowed(
            f"tenant `{tenant}` has a token `{name}` already", hint=f"`runfold token revoke {name}`, or another name"
        )
    if len(live) >= LIVE_MAX:
        raise NotAllowed(f"there are {LIVE_MAX} tokens already", hint="revoke those that nobody uses")
    ends_us = expiry_us(expires, now_us)
    return TokenCreated(
        digest=digest, name=name, tenant=tenant, role=role, expires_at=None if ends_us is None else time_text(ends_us)
    )


def find(tokens: Iterable[Token], text: str, now_us: int) -> Token:
    """The token of an id, or the live one of a name. Raises NotFound, BadRequest where that is more than one."""
    every = list(tokens)
    found = [token for token in every if token.token_id == text] or [
        token for token in every if token.name == text and token.status(now_us) == "active"
    ]
    if not found:
        raise NotFound(f"there is no token `{text[:80]}`", hint="`runfold token list` shows their ids and names")
    if len(found) > 1:
        ids = ", ".join(f"{token.token_id} (tenant {token.tenant})" for token in found)
        raise BadRequest(f"`{text[:80]}` is the name of more than one token", hint=f"say which by its id: {ids}")
    return found[0]


def expiry_us(text: str, now_us: int) -> int | None:
    """When `30d`, `12h` or a moment has come, in microseconds since 1970; None for `never`. Raises BadRequest."""
    if text == "never":
        return None
    span = _SPAN.fullmatch(text)
    if span is not None:
        ends_us = now_us + int(span[1]) * (24 if span[2] == "d" else 1) * 3_600_000_000
    else:
        try:
            ends_us = moment_us(text)
        except (ValueError, OverflowError):
            raise BadRequest(f"`{text[:40]!a}` is no expiry", hint=f"30d, 12h, never, {A_MOMENT}") from None
    if not now_us < ends_us <= now_us + DAYS_MAX * 86_400_000_000:
        raise BadRequest(f"a token cannot expire at `{text[:40]}`", hint=f"in the future, at most {DAYS_MAX}d from now")
    return ends_us
