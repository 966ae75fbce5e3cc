"""What the program says, in the order it said it, from one thread that also keeps the run's lease alive.

Events wait in a bounded buffer and leave in batches; a batch once made is sent with the same ids until it is answered.
"""

import sys
import threading
import time
from collections import deque

import msgspec

from runfold.client.leaving import deliver_left
from runfold.client.requests import Answer, Do, Problem, Request, Told, Unreachable
from runfold.client.ways import Ways
from runfold.envelope import time_text
from runfold.ordered_ids import ordered_id

BUFFERED_EVENTS_MAX = 10_000
BATCH_EVENTS_MAX = 400
BATCH_BYTES_MAX = 256 * 1024
HEARTBEAT_SECONDS = 2.0  # A wish to pause or cancel is known this soon; a lease of 30 s outlives 14 that are lost.
REFUSED_KEPT_MAX = 100
STARTS = frozenset({"step_started", "unit_started", "turn_started"})
RESTS = frozenset({"completed", "failed", "cancelled"})

_encode = msgspec.json.Encoder().encode


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it leaves."""

    id: str
    type: str
    at: str
    data: msgspec.Raw


class _Asked:
    """A request whose caller waits."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.done = threading.Event()
        self.outcome: Answer | Exception = Unreachable("it was not sent")


class Delivery:
    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._changed = threading.Condition()
        self._waiting: deque[Said | _Asked] = deque()
        self._is_sending = False
        self._is_closed = False
        self._status = "queued"
        self._beat_at = time.monotonic()
        self.refused: deque[Problem] = deque(maxlen=REFUSED_KEPT_MAX)
        self._thread = threading.Thread(target=self._work, name="runfold", daemon=True)
        self._thread.start()
        self._leaving: threading.Thread | None = None

    @property
    def run(self) -> str:
        return self._ways.run

    @property
    def status(self) -> str:
        return self._status

    def say(self, kind: str, data: bytes) -> None:
        """Leave an event to be sent; waits only where the buffer is full."""
        said = Said(id=ordered_id(), type=kind, at=now_text(), data=msgspec.Raw(data))
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < BUFFERED_EVENTS_MAX)
            self._waiting.append(said)
            self._changed.notify_all()

    def ask(self, do: Do, body: bytes, *, key: str | None = None) -> Answer:
        """Send after all that was said before, and wait for the answer. Raises Unreachable."""
        asked = _Asked(Request(do=do, key=key or ordered_id(), at=now_text(), body=msgspec.Raw(body)))
        with self._changed:
            self._waiting.append(asked)
            self._changed.notify_all()
        asked.done.wait()
        if isinstance(asked.outcome, Exception):
            raise asked.outcome
        return asked.outcome

    def flush(self) -> None:
        """Wait until all that was said is answered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_sending)

    def wait_for_status(self, unlike: str) -> str:
        """The next status that is another one."""
        with self._changed:
            self._changed.wait_for(lambda: self._status != unlike)
            return self._status

    def upload(self, body: bytes) -> Answer:
        """Send a file: to a server beside the events, which go on, so that its size does not cost the lease."""
        self.flush()
        server = self._ways.server
        if server is None:
            return self.ask("artifact", body)
        own = server.another()
        try:
            return own.send(Request(do="artifact", key=ordered_id(), run=self.run, body=msgspec.Raw(body)))
        except Unreachable:
            return self.ask("artifact", body)
        finally:
            own.close()

    def deliver_left(self) -> None:
        """Give the named server, beside what is said now, what earlier programs could not give it."""
        if (server := self._ways.named_server()) is not None:
            work = (self._ways.data, server)
            self._leaving = threading.Thread(target=deliver_left, args=work, name="runfold-left", daemon=True)
            self._leaving.start()

    def close(self) -> None:
        """After this nothing is sent, and nothing is left over."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        if self._leaving is not None:
            self._leaving.join()
        self._ways.close()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            try:
                if isinstance(work, _Asked):
                    self._answer(work)
                elif work:
                    self._report(work)
                else:
                    self._heartbeat()
            except Unreachable as error:
                self._give_up(work, error)
            finally:
                with self._changed:
                    self._is_sending = False
                    self._changed.notify_all()

    def _next(self) -> list[Said] | _Asked | None:
        """A batch, a request, an empty batch where it is time for a heartbeat, or None at the end."""
        with self._changed:
            due = max(0.0, self._beat_at + HEARTBEAT_SECONDS - time.monotonic())
            self._changed.wait_for(lambda: self._waiting or self._is_closed, timeout=due)
            self._is_sending = True
            if self._is_closed and not self._waiting:
                return None
            # Also in the middle of a lot to say: that is how a server that is up again is found.
            if not self._waiting or time.monotonic() - self._beat_at >= HEARTBEAT_SECONDS:
                return []
            if isinstance(first := self._waiting[0], _Asked):
                self._waiting.popleft()
                return first
            batch: list[Said] = []
            size = 0
            while self._waiting and isinstance(said := self._waiting[0], Said) and len(batch) < BATCH_EVENTS_MAX:
                size += len(said.data)
                if batch and size > BATCH_BYTES_MAX:
                    break
                batch.append(said)
                self._waiting.popleft()
            self._changed.notify_all()
            return batch

    def _answer(self, asked: _Asked) -> None:
        try:
            asked.outcome = self._ways.send(asked.request)
            self._hear(asked.outcome)
        except Exception as error:  # It belongs to whoever waits for the answer.
            asked.outcome = error
        finally:
            asked.done.set()

    def _report(self, batch: list[Said]) -> None:
        answer = self._send_batch(batch)
        if answer.status < 300:
            return
        if len(batch) > 1:
            # All or nothing: one by one, so that only what is refused is left out.
            for said in batch:
                self._report([said])
            return
        problem = msgspec.json.decode(answer.body, type=Problem)
        if problem.code == "not_allowed" and batch[0].type in STARTS and self._wait_while_paused():
            self._report(batch)
            return
        self.refused.append(problem)
        if problem.code == "already_final":
            self._set_status("cancelled" if self._status == "cancelling" else "ended")
        print(f"runfold: `{batch[0].type}` was refused: {problem.detail}", file=sys.stderr)

    def _send_batch(self, batch: list[Said]) -> Answer:
        answer = self._ways.send(Request(do="report", key=batch[0].id, body=msgspec.Raw(_encode({"events": batch}))))
        self._hear(answer)
        return answer

    def _wait_while_paused(self) -> bool:
        """Whether the run goes on; a start that comes while it is paused is held back until then."""
        self._heartbeat()
        waited = False
        while self._status in ("pausing", "paused") and not self._is_closed:
            waited = True
            time.sleep(HEARTBEAT_SECONDS / 4)
            self._heartbeat()
        return waited and self._status == "running"

    def _heartbeat(self) -> None:
        self._beat_at = time.monotonic()
        request = Request(do="heartbeat", key=ordered_id())
        self._ways.improve(request)
        answer = self._ways.send(request)
        if answer.status == 409 and self._status not in RESTS:
            self._set_status("cancelled" if self._status == "cancelling" else "ended")
        self._hear(answer)

    def _hear(self, answer: Answer) -> None:
        if answer.status < 300:
            status = answer.run_status or msgspec.json.decode(answer.body, type=Told).status
            self._set_status(status or self._status)

    def _set_status(self, status: str) -> None:
        with self._changed:
            self._status = status
            self._changed.notify_all()

    def _give_up(self, work: list[Said] | _Asked, error: Unreachable) -> None:
        # Not even a file can be written: it is said once for each, and tried again with what comes next.
        if isinstance(work, list) and work:
            self.refused.append(Problem(code="unavailable", detail=str(error)))
            print(f"runfold: {len(work)} events could not be kept anywhere: {error}", file=sys.stderr)


def now_text() -> str:
    return time_text(time.time_ns() // 1000)
