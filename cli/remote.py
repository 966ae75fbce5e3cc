"""The runs of a server, read and controlled over HTTP; it gives what the data folder itself would give."""

import http.client
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from cli.runs import EventPage
from cli.screen import talk
from cli.settings import Settings
from projections.approvals import ApprovalFilter, ApprovalItem, ApprovalList
from projections.audit.answers import AuditCount, AuditList
from projections.audit.question import AuditFilter
from projections.causes import Causation
from projections.history import Transition
from projections.run_list import LIMIT_MAX, RunFilter, RunList
from projections.spending import BudgetList
from projections.steps import StepItem, StepList
from projections.usage import CostList
from runfold import errors
from runfold.commands import Annotate
from runfold.difference import Difference
from runfold.envelope import Recorded, time_us
from runfold.envelope import _Envelope as Envelope
from runfold.errors import InvalidSetting, RunfoldError, Unauthorized, Unavailable, error_of_code
from runfold.markdown import Why
from runfold.ordered_ids import ordered_id
from runfold.retrying import RetryAnswer
from runfold.snapshot import Snapshot
from runfold.state import RESTING
from runfold.step_wishes import StepAnswer, StepsWish, StepWish
from runfold.tokens import NewToken, TokenItem, TokenList

ANSWER_SECONDS = 30.0  # The server says something every 15 s, also on a stream where nothing happens.
RETRY_SECONDS = 1.0
RETRIES_MAX = 30
OUTPUT_BYTES = 1024 * 1024  # Of a run's output at once.
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Transitions(msgspec.Struct, frozen=True):
    items: list[Transition]


class Counts(msgspec.Struct, frozen=True):
    items: list[AuditCount]


class Envelopes(msgspec.Struct, frozen=True):
    items: list[Envelope]
    total: int | None
    next_cursor: str | None


class RemoteRuns:
    poll_seconds = RETRY_SECONDS

    def __init__(self, settings: Settings) -> None:
        self.url = settings.url.rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidSetting(
                f"`{settings.url}` from {settings.sources['url']} is not the address of a server",
                hint="for example RUNFOLD_URL=http://127.0.0.1:8321",
            )
        self._path = parts.path
        self._host = parts.netloc.rpartition("@")[2]
        self._connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._token = _token(settings, parts.hostname)
        self._connection: http.client.HTTPConnection | None = None
        self.is_behind = False

    def list_runs(self, wanted: RunFilter) -> RunList:
        content, headers = self._answer("GET", f"/api/runs?{urlencode(_query(wanted), doseq=True)}")
        # `true` is a list that is old for good, until somebody rebuilds the views.
        self.is_behind = headers.get("Runfold-Stale") == "folding"
        return msgspec.json.decode(content, type=RunList)

    def get_run(self, run_id: str) -> Snapshot | None:
        try:
            return msgspec.json.decode(self._get(f"/api/runs/{run_id}"), type=Snapshot)
        except errors.NotFound:
            return None

    def get_run_at(self, run_id: str, at: str) -> Snapshot:
        return msgspec.json.decode(self._get(f"/api/runs/{run_id}", {"at": at}), type=Snapshot)

    def ids_beginning(self, prefix: str, *, limit: int) -> list[str]:
        found: list[str] = []
        wanted = RunFilter(tenant=None, q=prefix, limit=LIMIT_MAX)
        while len(found) < limit:
            page = self.list_runs(wanted)
            # `q` also finds titles and labels.
            found += [item.id for item in page.items if item.id.startswith(prefix)]
            if page.next_cursor is None:
                break
            wanted = msgspec.structs.replace(wanted, cursor=page.next_cursor)
        return found[:limit]

    def history(self, run_id: str) -> list[Transition]:
        return msgspec.json.decode(self._get(f"/api/runs/{run_id}/history"), type=Transitions).items

    def steps(self, run_id: str, *, status: tuple[str, ...]) -> StepList:
        items, total = list[StepItem](), 0
        cursor: str | None = "0"
        while cursor is not None:
            answer = self._get(f"/api/runs/{run_id}/steps", {"cursor": cursor, "status": status})
            page = msgspec.json.decode(answer, type=StepList)
            items += page.items
            cursor, total = page.next_cursor, page.total
        return StepList(items=items, total=total, next_cursor=None)

    def costs(self, *, by: str, limit: int, offset: int = 0) -> CostList:
        asked = {"by": by, "limit": limit, "cursor": offset}
        return msgspec.json.decode(self._get("/api/costs", asked), type=CostList)

    def budgets(self) -> BudgetList:
        return msgspec.json.decode(self._get("/api/budgets", {}), type=BudgetList)

    def audit(self, wanted: AuditFilter) -> AuditList:
        return msgspec.json.decode(self._get("/api/audit", _query(wanted), tenant=wanted.tenant), type=AuditList)

    def audit_counts(self, wanted: AuditFilter, *, by: str) -> list[AuditCount]:
        answer = self._get("/api/audit/counts", {**_query(wanted), "by": by}, tenant=wanted.tenant)
        return msgspec.json.decode(answer, type=Counts).items

    def causes(self, run_id: str, event: str, *, limit: int) -> Causation:
        answer = self._get(f"/api/runs/{run_id}/events/{quote(event, safe='')}/causes", {"limit": limit})
        return msgspec.json.decode(answer, type=Causation)

    def events(self, run: Snapshot, *, after: int, types: tuple[str, ...], limit: int | None) -> EventPage:
        items: list[Recorded] = []
        cursor: str | None = str(after)
        total: int | None = None
        while cursor is not None and (limit is None or len(items) < limit):
            count = LIMIT_MAX if limit is None else min(limit - len(items), LIMIT_MAX)
            answer = self._get(f"/api/runs/{run.id}/events", {"after": cursor, "limit": count, "type": types})
            page = msgspec.json.decode(answer, type=Envelopes)
            items += [_recorded(item) for item in page.items]
            total, cursor = page.total, page.next_cursor
        return EventPage(items=items, total=total, next_cursor=cursor)

    def rests(self, run_id: str) -> bool:
        run = self.get_run(run_id)
        return run is None or run.status in RESTING

    def output_start(self, run_id: str, *, tail: int | None) -> int | None:
        try:
            content, headers = self._answer("GET", f"/api/runs/{run_id}/output?tail={tail or 1}")
        except errors.NotFound:
            return None
        if tail is None:
            return 0
        begins = int(headers["Runfold-Offset"])
        return begins if tail else begins + len(content)

    def output(self, run_id: str, *, offset: int) -> bytes:
        wanted = {"Range": f"bytes={offset}-{offset + OUTPUT_BYTES - 1}"}
        return self._answer("GET", f"/api/runs/{run_id}/output", headers=wanted)[0]

    def report(self, run_id: str) -> str:
        return self._get(f"/api/runs/{run_id}/report").decode()

    def why(self, run_id: str) -> Why:
        return msgspec.json.decode(self._get(f"/api/runs/{run_id}/why"), type=Why)

    def difference(self, a: str, b: str, *, at: str | None, other_at: str | None) -> Difference:
        moments = {name: value for name, value in (("at", at), ("other_at", other_at)) if value is not None}
        return msgspec.json.decode(self._get(f"/api/runs/{a}/diff/{b}", moments), type=Difference)

    def follow(self, run_id: str, *, after: int) -> Iterator[Recorded]:
        failures = 0
        while True:
            try:
                for recorded in self._stream(run_id, after):
                    after, failures = recorded.position, 0
                    yield recorded
                return
            except (OSError, http.client.HTTPException, Unavailable) as error:
                # A stream that breaks goes on where it was: the server may only have been started anew.
                failures += 1
                if failures > RETRIES_MAX:
                    raise self._unreachable(error) from error
                time.sleep(RETRY_SECONDS)

    def approvals(self, wanted: ApprovalFilter) -> ApprovalList:
        path = f"/api/runs/{wanted.run_id}/approvals" if wanted.run_id else "/api/approvals"
        answer = self._get(path, {"status": wanted.status, "limit": wanted.limit})
        return msgspec.json.decode(answer, type=ApprovalList)

    def control(self, run_id: str, action: str, **said: Any) -> Snapshot:
        """Ask the server to pause, resume or cancel; of a reported run also for its end. The run after it."""
        given = {name: value for name, value in said.items() if value}
        answer = self._post(f"/api/runs/{run_id}/control", {"action": action, **given})
        return msgspec.json.decode(answer, type=Snapshot)

    def annotate(self, run_id: str, command: Annotate) -> Snapshot:
        said = {name: value for name, value in msgspec.structs.asdict(command).items() if value not in (None, "", {})}
        return msgspec.json.decode(self._send("PATCH", f"/api/runs/{run_id}", said), type=Snapshot)

    def change_steps(self, run_id: str, step: str | None, wish: StepWish | StepsWish) -> StepAnswer:
        path = f"/api/runs/{run_id}/steps" + ("" if step is None else f"/{quote(step, safe='')}")
        said = {name: value for name, value in msgspec.structs.asdict(wish).items() if value not in (None, "", {})}
        return msgspec.json.decode(self._post(path, said), type=StepAnswer)

    def answer_approval(self, run_id: str, approval_id: str, body: dict[str, Any]) -> ApprovalItem:
        path = f"/api/runs/{run_id}/approvals/{quote(approval_id, safe='')}"
        return msgspec.json.decode(self._post(path, body), type=ApprovalItem)

    def retry(self, run_id: str, body: dict[str, Any]) -> RetryAnswer:
        return msgspec.json.decode(self._post(f"/api/runs/{run_id}/retry", body), type=RetryAnswer)

    def tokens(self) -> TokenList:
        items: list[TokenItem] = []
        while True:
            answer = self._get("/api/tokens", {"limit": LIMIT_MAX, "offset": len(items)})
            page = msgspec.json.decode(answer, type=TokenList)
            items += page.items
            if not page.items or len(items) >= page.total:
                return msgspec.structs.replace(page, items=tuple(items))

    def create_token(self, **said: str | None) -> NewToken:
        given = {name: value for name, value in said.items() if value is not None}
        return msgspec.json.decode(self._post("/api/tokens", given), type=NewToken)

    def revoke_token(self, text: str, reason: str) -> TokenItem:
        answer = self._send("DELETE", f"/api/tokens/{quote(text, safe='')}", {"reason": reason})
        return msgspec.json.decode(answer, type=TokenItem)

    def login_path(self) -> str:
        """A path of the server that logs a browser in, once."""
        return str(msgspec.json.decode(self._post("/session/code", {}), type=dict[str, Any])["path"])

    def launch(self, path: str, body: dict[str, Any]) -> Snapshot:
        """Ask the server to start one of its workflows."""
        return msgspec.json.decode(self._post(path, body), type=Snapshot)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: dict[str, Any]) -> bytes:
        key = {"Content-Type": "application/json", "Idempotency-Key": ordered_id()}
        return self._ask(method, path, body=msgspec.json.encode(body), headers=key)

    def _get(self, path: str, query: dict[str, Any] | None = None, *, tenant: str | None = None) -> bytes:
        headers = None if tenant is None else {"Runfold-Tenant": tenant}
        return self._ask("GET", path + (f"?{urlencode(query, doseq=True)}" if query else ""), headers=headers)

    def _ask(
        self, method: str, path: str, *, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> bytes:
        return self._answer(method, path, body=body, headers=headers)[0]

    def _answer(
        self, method: str, path: str, *, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[bytes, http.client.HTTPMessage]:
        is_known = self._connection is not None
        try:
            response, content = self._exchange(method, path, body, headers or {})
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not is_known or isinstance(error, TimeoutError):
                raise self._unreachable(error) from error
            # The server closes a connection that is idle, and may have been started anew; what is sent has its key.
            return self._answer(method, path, body=body, headers=headers)
        if response.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            # A range that begins at the end of what there is: nothing yet.
            return b"", response.headers
        if response.status >= 400:
            raise _refusal(response.status, content)
        if response.headers.get("Runfold-Stale"):
            talk("note: the server's views are behind its log; what follows may be older than the last event")
        return content, response.headers

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Raises OSError, http.client.HTTPException."""
        if self._connection is None:
            self._connection = self._connect(self._host, timeout=ANSWER_SECONDS)
        self._connection.request(method, self._path + path, body=body, headers={**self._headers(), **headers})
        response = self._connection.getresponse()
        return response, response.read()

    def _stream(self, run_id: str, after: int) -> Generator[Recorded, None, None]:
        connection = self._connect(self._host, timeout=ANSWER_SECONDS)
        try:
            headers = {**self._headers(), "Accept": "text/event-stream", "Last-Event-ID": str(after)}
            connection.request("GET", f"{self._path}/api/runs/{run_id}/stream", headers=headers)
            response = connection.getresponse()
            if response.status == http.client.NO_CONTENT:
                return
            if response.status >= 400:
                raise _refusal(response.status, response.read())
            while line := response.readline():
                if line == b"event: done\n":
                    return
                if line.startswith(b"data: {"):
                    yield _recorded(msgspec.json.decode(line[6:], type=Envelope))
            raise http.client.IncompleteRead(b"")
        finally:
            connection.close()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _unreachable(self, error: Exception) -> Unavailable:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        return Unavailable(
            f"the server at {self.url} does not answer: {why}",
            hint="`runfold up` starts one there; without RUNFOLD_URL the data folder itself is read",
        )


def _query(wanted: msgspec.Struct) -> dict[str, Any]:
    """What of a filter is asked for; the tenant is the token's."""
    given = {field.encode_name: getattr(wanted, field.name) for field in msgspec.structs.fields(wanted)}
    return {name: value for name, value in given.items() if name != "tenant" and value not in (None, (), 0)}


@contextmanager
def open_remote(settings: Settings) -> Generator[RemoteRuns, None, None]:
    runs = RemoteRuns(settings)
    try:
        yield runs
    finally:
        runs.close()


def token_of(settings: Settings) -> str:
    """The token that goes with RUNFOLD_URL."""
    return _token(settings, urlsplit(settings.url).hostname or "")


def _token(settings: Settings, host: str) -> str:
    """The token of the settings; on this machine else that of the data folder, which is never sent anywhere else."""
    if settings.token or host not in LOOPBACK:
        return settings.token
    try:
        return (settings.data / "token").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _refusal(status: int, content: bytes) -> RunfoldError:
    """The error that the server meant."""
    try:
        problem: dict[str, Any] = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError:
        return Unavailable(f"the server answered {status} without a problem", hint="is this address a runfold server?")
    kind = error_of_code(str(problem.get("code")))
    hint = str(problem.get("hint") or "")
    if kind is Unauthorized:
        hint = "RUNFOLD_TOKEN has to be a token of that server; its first one is in `token` in its data folder"
    return kind(str(problem.get("detail") or problem.get("title")), hint=hint, run_id=problem.get("run_id"))


def _recorded(item: Envelope) -> Recorded:
    """The event of its public envelope."""
    return Recorded(
        position=item.position,
        run_id=item.run_id,
        version=item.version,
        id=item.id,
        type=item.type,
        schema=item.schema,
        at_us=time_us(item.at),
        recorded_at_us=time_us(item.recorded_at),
        tenant=item.tenant,
        actor=f"{item.actor.kind}:{item.actor.name}" if item.actor.name else item.actor.kind,
        cause=item.cause,
        command=item.command,
        sent=bytes.fromhex(item.sent) if item.sent else None,
        correlation=item.correlation,
        hash=bytes.fromhex(item.hash),
        data=None if bytes(item.data) == b"null" else bytes(item.data),
    )
