"""The one tree of errors: a stable code, an HTTP status, a message that names the thing, a hint what to do next.

RunfoldError
├── BadRequest            400  bad_request
│   ├── InvalidEvent      400  invalid_event
│   └── InvalidSetting    400  invalid_setting
├── Unauthorized          401  unauthorized
├── Forbidden             403  forbidden
├── NotFound              404  not_found
├── Refused               409  (the log keeps a trace where `recorded` is true)
│   ├── NotAllowed        409  not_allowed
│   ├── Fenced            409  fenced
│   ├── EventIdConflict   409  event_id_conflict
│   └── AlreadyFinal      409  already_final
├── Conflict              409  conflict          (another process was quicker; the ledger tries again)
├── Gone                  410
│   ├── Trimmed           410  trimmed
│   └── Diverged          410  diverged
├── TooLarge              413  too_large
├── UnsupportedMedia      415  unsupported_media_type
├── Misdirected           421  misdirected
├── KeyReused             422  idempotency_key_reused
├── LogFailed             500  log_failed
├── Damaged               500  damaged
└── Unavailable           503  unavailable       (try again after `retry_after_seconds`)
    └── Contended         503  contended
"""


class RunfoldError(Exception):
    """Base of every error that a caller can cause or meet; `str(error)` is the message."""

    code = "error"
    status = 500
    recorded = False
    """Whether a refusal leaves `command_refused` in the log."""

    def __init__(self, message: str, *, hint: str = "", run_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.run_id = run_id


class BadRequest(RunfoldError):
    code, status = "bad_request", 400


class InvalidEvent(BadRequest):
    code = "invalid_event"


class InvalidSetting(BadRequest):
    code = "invalid_setting"


class Unauthorized(RunfoldError):
    code, status = "unauthorized", 401


class Forbidden(RunfoldError):
    code, status = "forbidden", 403


class NotFound(RunfoldError):
    code, status = "not_found", 404


class Refused(RunfoldError):
    code, status = "refused", 409


class NotAllowed(Refused):
    """The run's state does not allow the command."""

    code, recorded = "not_allowed", True


class Fenced(Refused):
    """The worker's claim is no longer the run's claim."""

    code, recorded = "fenced", True


class AlreadyFinal(Refused):
    """The run is completed, failed or cancelled, for ever."""

    code, recorded = "already_final", True


class EventIdConflict(Refused):
    """An event id of the run is known with other content, order or neighbours."""

    code = "event_id_conflict"


class Conflict(RunfoldError):
    """The stream's last event is not the expected one."""

    code, status = "conflict", 409

    def __init__(self, message: str, *, actual: int = 0, hint: str = "", run_id: str | None = None) -> None:
        super().__init__(message, hint=hint, run_id=run_id)
        self.actual = actual


class Gone(RunfoldError):
    code, status = "gone", 410

    def __init__(self, message: str, *, earliest: int = 0, hint: str = "", run_id: str | None = None) -> None:
        super().__init__(message, hint=hint, run_id=run_id)
        self.earliest = earliest


class Trimmed(Gone):
    """What the cursor asks for is no longer kept; `tenant` is that of the run it is of, where that is known."""

    code = "trimmed"

    def __init__(
        self, message: str, *, earliest: int = 0, hint: str = "", run_id: str | None = None, tenant: str | None = None
    ) -> None:
        super().__init__(message, earliest=earliest, hint=hint, run_id=run_id)
        self.tenant = tenant


class Diverged(Gone):
    """The cursor is from another log, or beyond this one's head."""

    code = "diverged"


class TooLarge(RunfoldError):
    code, status = "too_large", 413


class UnsupportedMedia(RunfoldError):
    code, status = "unsupported_media_type", 415


class Misdirected(RunfoldError):
    code, status = "misdirected", 421


class KeyReused(RunfoldError):
    code, status = "idempotency_key_reused", 422


class LogFailed(RunfoldError):
    """The log cannot promise durability any more; writing has stopped."""

    code, status = "log_failed", 500


class Damaged(RunfoldError):
    """What the log's file holds is not what was appended to it."""

    code, status = "damaged", 500


class Unavailable(RunfoldError):
    code, status = "unavailable", 503
    retry_after_seconds = 1


class Contended(Unavailable):
    code = "contended"


def error_of_code(code: str) -> type[RunfoldError]:
    """The class whose code this is; the base of all where another version made it."""
    waiting: list[type[RunfoldError]] = [RunfoldError]
    while waiting:
        kind = waiting.pop()
        if kind.__dict__.get("code") == code:
            return kind
        waiting += kind.__subclasses__()
    return RunfoldError
