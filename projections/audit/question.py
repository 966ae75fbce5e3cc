"""What the audit can be asked: who, what, whose, about which run, file, word, time and cause."""

from typing import Annotated, Literal

import msgspec

from runfold.errors import BadRequest
from runfold.events import EventClass

LIMIT_MAX = 200


class AuditQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for; several of one kind mean any of them.

    An actor without `:` is a kind; a path ending in `/` is a folder, one with `*`, `?` or `[` a pattern, any other
    the file itself. `since` and `until` are times of recording, RFC 3339 with an offset.
    """

    actor: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    classes: tuple[EventClass, ...] = msgspec.field(default=(), name="class")
    run_id: str | None = None
    workflow: str | None = None
    path: str | None = None
    q: str | None = None
    since: str | None = None
    until: str | None = None
    cause: str | None = None
    command: str | None = None
    order: Literal["asc", "desc"] = "desc"
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = 50
    cursor: str | None = None


class AuditFilter(AuditQuestion, frozen=True, kw_only=True):
    """Whose: `tenant` None means all."""

    tenant: str | None

    @classmethod
    def of(cls, question: AuditQuestion, *, tenant: str | None) -> "AuditFilter":
        asked = {name: getattr(question, name) for name in AuditQuestion.__struct_fields__}
        return cls(tenant=tenant, **asked)


def bad(name: str, value: object, allowed: str) -> BadRequest:
    return BadRequest(f"`{name}` is `{value}`; allowed: {allowed}", hint=f"change `{name}`, or leave it out")
