"""Sessions of browsers, and links that open one, as the system stream of a shared log tells them to every server."""

import msgspec

from runfold.envelope import Recorded, time_us
from runfold.errors import InvalidEvent
from runfold.events import SessionClosed, SessionOpened

SESSIONS_MAX = 1_000  # Each request compares with all of them.


class Session(msgspec.Struct, frozen=True):
    """The sha256 of the token that a session hangs on, and when it ends; a link opens a session, once."""

    token: str
    expires_at_us: int
    is_link: bool = False


def fold_session(known: dict[str, Session], recorded: Recorded) -> None:
    """Add or take what an event says, by the sha256 of its secret; of too many, what is over goes, or the oldest."""
    if recorded.type not in ("session_opened", "session_closed"):
        return
    try:
        event = recorded.event()
        if isinstance(event, SessionOpened):
            while len(known) >= SESSIONS_MAX:
                over = [digest for digest, held in known.items() if held.expires_at_us <= recorded.recorded_at_us]
                for digest in over or [next(iter(known))]:
                    del known[digest]
            known[event.digest] = Session(event.token, time_us(event.expires_at), event.is_link)
        elif isinstance(event, SessionClosed):
            known.pop(event.digest, None)
    except (InvalidEvent, ValueError):
        return  # What cannot be read opens no door.
