"""What an exception means for the run: a failure that people can read, without secrets, or an interruption."""

import os
import re
import traceback

import msgspec

from runfold.events import Failure
from runfold.redact import Redactor, secrets_of

TRACE_CHARACTERS_MAX = 16_000  # Its end says most.
_OPEN_CODE = re.compile(r"(SYS|DEP)_[A-Z0-9_]{1,60}")


class Interrupted(BaseException):
    """Somebody else ended the run. No `except Exception` of the program stands in the way of its end."""


class Cancelled(Interrupted):
    """A person cancelled the run."""


class Stopped(Interrupted):
    """A limit, or a person who denied something, stopped the run; it can be resumed."""


def is_interruption(error: BaseException) -> bool:
    """Whether it asks the program to end, rather than tells that something went wrong."""
    return not isinstance(error, Exception) and not (isinstance(error, SystemExit) and error.code not in (None, 0))


def failure_of(error: BaseException, redactor: Redactor) -> Failure:
    """The exception's own `code` is kept where it is a reason code of the open families (`SYS_…`, `DEP_…`)."""
    said = getattr(error, "code", None)
    code = said if isinstance(said, str) and _OPEN_CODE.fullmatch(said) else "SYS_EXCEPTION"
    trace = "".join(traceback.format_exception(error))[-TRACE_CHARACTERS_MAX:]
    return Failure(
        type="dependency" if code.startswith("DEP_") else "system",
        code=code,
        message=redactor.text(f"{type(error).__name__}: {error}"[:1_000]),
        stack_trace=redactor.text(trace),
    )


def make_redactor() -> Redactor:
    """Hides the secrets of this program's environment before anything leaves it."""
    return Redactor(secrets_of(os.environ))


def encode_hidden(value: object, redactor: Redactor) -> bytes:
    """The JSON of an event's data, without secrets."""
    return redactor.data(msgspec.json.encode(value))
