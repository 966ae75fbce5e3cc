"""Events as frames of an event stream (SSE): which a reader wants, and the bytes that every log gives him for them."""

import re
from collections.abc import Iterable

import msgspec

from runfold.envelope import SYSTEM_STREAM, Recorded, envelope_json
from runfold.events import EventClass, event_class

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Framing(msgspec.Struct, frozen=True, kw_only=True):
    """Which events a reader wants: no types or classes are all of them; `named`: whether a frame says its type."""

    tenant: str | None = None
    types: tuple[str, ...] = ()
    classes: tuple[EventClass, ...] = ()
    named: bool = False
    marks: tuple[str, ...] = ()
    """Types whose appearance a page tells, wanted or not."""

    def takes(self, run_id: str, tenant: str, type_name: str) -> bool:
        return (
            run_id != SYSTEM_STREAM
            and (self.tenant is None or tenant == self.tenant)
            and (not self.types or type_name in self.types)
            and (not self.classes or event_class(type_name) in self.classes)
        )


class Framed(msgspec.Struct, frozen=True, kw_only=True):
    """The frames of a page, how far it looked, and the highest version seen there (0 for none).

    `is_full`: it ends because there is more, and not because there is no more yet; `rows`: how many events it looked
    at, where that is known.
    """

    content: bytes
    scanned_to: int
    version: int
    is_marked: bool
    is_full: bool = False
    rows: int = 0


def framed(events: Iterable[Recorded], framing: Framing, *, scanned_to: int) -> Framed:
    parts: list[bytes] = []
    version, is_marked = 0, False
    for event in events:
        version = max(version, event.version)
        is_marked = is_marked or event.type in framing.marks
        if framing.takes(event.run_id, event.tenant, event.type):
            parts.append(event_frame(event, envelope_json(event), named=framing.named))
    return Framed(content=b"".join(parts), scanned_to=scanned_to, version=version, is_marked=is_marked)


def event_frame(event: Recorded, document: bytes, *, named: bool) -> bytes:
    return f"id: {event.cursor}\n{lead_of(event.type, named=named)}data: ".encode() + one_line(document) + b"\n\n"


def lead_of(type_name: str, *, named: bool) -> str:
    # A type that we do not know is text of others too.
    return f"event: {type_name}\n" if named and _NAME.fullmatch(type_name) else ""


def one_line(document: bytes) -> bytes:
    """Line ends stand in JSON only between its tokens; in text they are escaped, so a space says the same."""
    if b"\n" in document or b"\r" in document:
        return document.replace(b"\r", b" ").replace(b"\n", b" ")
    return document
