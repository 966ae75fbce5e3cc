"""What kind of failure an agent's words describe: an API that did not answer, one that refused, or the agent itself."""

import re

from runfold.events import AgentError, Failure
from runner.formats.values import clip

MESSAGE_BYTES_MAX = 4 * 1024
_STATUS = re.compile(r"\b(?:status(?: code)?|API Error|HTTP)[:= ]{1,3}(\d{3})\b", re.IGNORECASE)
_UNAVAILABLE = re.compile(
    r"stream disconnected|high demand|overloaded|rate limit|timed? ?out|connection|ECONN|unavailable", re.IGNORECASE
)
_SCANNED_CHARACTERS = 2_000  # A message says what it is at its beginning.
_REFUSED = frozenset({400, 401, 402, 403, 404})


def failure_of(message: str, http_status: int = 0) -> Failure:
    """The failure as a turn's end states it; only what may go away by itself is retryable."""
    said = message[:_SCANNED_CHARACTERS]
    if not http_status and (found := _STATUS.search(said)):
        http_status = int(found[1])
    text = clip(message, MESSAGE_BYTES_MAX) or "the agent said that it failed, and nothing more"
    if http_status in _REFUSED:
        return Failure(type="dependency", code="DEP_API_REFUSED", message=text)
    if http_status in (408, 409, 429) or 500 <= http_status < 600 or (not http_status and _UNAVAILABLE.search(said)):
        return Failure(type="dependency", code="DEP_API_UNAVAILABLE", message=text, retryable=True)
    return Failure(type="agent", code="TURN_FAILED", message=text)


def error_of(failure: Failure) -> AgentError:
    """The same as an event; a code of an open family becomes the reason of a run that ends with it."""
    code = failure.code if failure.type == "dependency" else None
    return AgentError(message=failure.message, retryable=failure.retryable, code=code, error_type=failure.type)


def retry_of(message: str) -> AgentError:
    """The agent tries again by itself: worth knowing, and no failure yet."""
    return AgentError(message=clip(message, MESSAGE_BYTES_MAX), retryable=True)
