"""What is too long for an event goes to a blob, which is on the disk before the event that names it."""

from pathlib import Path

from eventstore.contract import EVENT_BYTES_MAX
from eventstore.objects import blobs
from runfold.errors import TooLarge
from runfold.long_text import shorten


def overflow(data: Path, event_type: str, content: bytes) -> bytes:
    """The event's data as the log can take it; its longest texts are stored apart. Raises TooLarge, Unavailable."""
    if len(content) <= EVENT_BYTES_MAX:
        return content
    shortened, texts = shorten(content, EVENT_BYTES_MAX)
    if not texts:
        raise TooLarge(
            f"a `{event_type}` event has {len(content)} bytes of data, at most {EVENT_BYTES_MAX}",
            hint="store the long part as an artifact and name it in the event",
        )
    for text in texts:
        blobs.put(data, text)
    return shortened
