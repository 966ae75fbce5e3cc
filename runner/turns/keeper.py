"""Keeps one command and all its descendants, and leaves none of them behind when the command or the driver ends.

Run by path as `python -I -S keeper.py CONTROL STATUS GRACE MARK RUN_ID [--session] -- COMMAND…`, standard library only,
few imports: it has to be up in milliseconds. CONTROL is a pipe from the driver: `G` starts the command, `T` ends the
tree, `K` ends it without grace, `S` and `C` stop and continue it, `W` passes a window change on, end of file means that
the driver is gone. STATUS gets one JSON line at the end.
"""

import os
import select
import signal
import sys
import time

MARKER = "RUNFOLD_TURN_MARK"  # Of one turn: other steps of the same run go on beside it.
RUN = "RUNFOLD_RUN_ID"
POLL_SECONDS = 0.02
KILL_WAIT_SECONDS = 1.5  # With the grace before it, all is over within grace + 2 s.
_PR_SET_CHILD_SUBREAPER = 36


def processes() -> dict[int, tuple[int, str]]:
    """Every process that /proc shows, with its parent and state; empty where there is no /proc."""
    found: dict[int, tuple[int, str]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command's name may hold spaces and parentheses; the fields begin after its last one.
                fields = file.read().rpartition(b")")[2].split()
            found[int(name)] = (int(fields[1]), fields[0].decode())
        except (OSError, IndexError, ValueError):
            continue
    return found


def is_marked(pid: int, mark: str) -> bool:
    """Whether it is of the turn with that mark, or of any turn of the run with that id."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            found = file.read().split(b"\0")
            return f"{MARKER}={mark}".encode() in found or f"{RUN}={mark}".encode() in found
    except OSError:
        return False


def tree(root: int | None, run_id: str, *, marked: bool) -> set[int]:
    """Living descendants of `root`, and (with `marked`) whoever carries the run's marker without being one."""
    everyone = processes()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in everyone.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(children.get(root, ())) if root is not None else []
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += children.get(pid, ())
    if marked:
        found |= {pid for pid in everyone if pid not in found and is_marked(pid, run_id)}
    return {pid for pid in found if everyone[pid][1] not in "ZX"} - {os.getpid()}


def send(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def _wake(number: int, frame: object) -> None:
    """Only to be woken: the number itself comes through the wake-up descriptor."""


class Ending:
    """TERM, grace, KILL over a tree that may still grow; keeps what a receipt needs."""

    def __init__(self, root: int | None, run_id: str, grace_seconds: float) -> None:
        self.root, self.run_id = root, run_id
        self.began = time.monotonic()
        self.kill_at = self.began + grace_seconds
        self.killed_at: float | None = None
        self.found: set[int] = set()
        self.signals: list[str] = []
        self.survivors: set[int] = set()

    def step(self) -> bool:
        """One look at the tree; True when nothing is left or nothing more can be done."""
        now = time.monotonic()
        alive = tree(self.root, self.run_id, marked=True)
        if not alive:
            return True
        if now < self.kill_at:
            self._signal(alive - self.found, signal.SIGTERM)
            # A stopped process takes its TERM only once it continues.
            send(alive, signal.SIGCONT)
        elif self.killed_at is None or now < self.killed_at + KILL_WAIT_SECONDS:
            # Also by who was kept from running for longer than all of this takes.
            self._signal(alive, signal.SIGKILL)
            self.killed_at = self.killed_at or time.monotonic()
        else:
            self.survivors = alive
            return True
        self.found |= alive
        return False

    def receipt(self) -> str:
        waited = int((time.monotonic() - self.began) * 1000)
        signals = ", ".join(f'"{name}"' for name in self.signals)
        return (
            f'{{"found": {len(self.found)}, "signals": [{signals}], '
            f'"survivors": {sorted(self.survivors)}, "waited_ms": {waited}}}'
        )

    def _signal(self, pids: set[int], number: signal.Signals) -> None:
        if pids and number.name not in self.signals:
            self.signals.append(number.name)
        send(pids, number)


class Keeper:
    def __init__(self, control: int, grace_seconds: float, run_id: str, argv: list[str]) -> None:
        self.control, self.grace_seconds, self.run_id, self.argv = control, grace_seconds, run_id, argv
        self.pid = 0
        self.wait_status: int | None = None
        self.ending: Ending | None = None
        self.ignored: list[signal.Signals] = []
        self.woken, self.waker = os.pipe()

    def prepare(self) -> None:
        os.set_blocking(self.waker, False)
        os.set_blocking(self.woken, False)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
            # The terminal's signals reach the whole foreground group; what they mean is the driver's to say.
            if signal.getsignal(number) != signal.SIG_IGN:
                self.ignored.append(number)
            signal.signal(number, _wake)
        signal.signal(signal.SIGCHLD, _wake)
        if sys.platform == "linux":
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def run(self) -> str:
        if os.read(self.control, 1) != b"G":
            return '{"pid": 0}'
        try:
            self.pid = os.posix_spawnp(
                self.argv[0],
                self.argv,
                os.environ,
                setsigdef=[*self.ignored, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD],
            )
        except OSError as error:
            return f'{{"pid": 0, "errno": {error.errno or 0}}}'
        # Only the tree may hold the output open, so that its end of file means what it says.
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        self._keep()
        return self._report()

    def _keep(self) -> None:
        reading = [self.control, self.woken]
        while True:
            childless = self._reap()
            if self.wait_status is not None and childless:
                return
            if self.wait_status is not None and self.ending is None:
                self.ending = Ending(os.getpid(), self.run_id, self.grace_seconds)
            if self.ending is not None and self.ending.step():
                self._reap()
                return
            ready, _, _ = select.select(reading, [], [], POLL_SECONDS if self.ending else None)
            if self.woken in ready:
                os.read(self.woken, 4096)
            if self.control in ready:
                orders = os.read(self.control, 64)
                if not orders:
                    reading.remove(self.control)
                self._obey(orders or b"T")

    def _obey(self, orders: bytes) -> None:
        for order in orders:
            if order in b"TK":
                self.ending = self.ending or Ending(os.getpid(), self.run_id, self.grace_seconds)
                if order in b"K":
                    self.ending.kill_at = time.monotonic()
            elif order in b"SCW":
                number = {b"S": signal.SIGSTOP, b"C": signal.SIGCONT, b"W": signal.SIGWINCH}[bytes([order])]
                send(tree(os.getpid(), self.run_id, marked=False), number)

    def _reap(self) -> bool:
        """Collect the dead; True where the system has told that no descendant is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # A subreaper inherits every orphan, so having no child means having no descendant.
                return sys.platform == "linux"
            if pid == 0:
                return False
            if pid == self.pid:
                self.wait_status = status

    def _report(self) -> str:
        parts = [f'"pid": {self.pid}']
        if self.wait_status is not None and os.WIFSIGNALED(self.wait_status):
            number = os.WTERMSIG(self.wait_status)
            parts.append(f'"signal": {number}')
        elif self.wait_status is not None:
            parts.append(f'"exit_code": {os.waitstatus_to_exitcode(self.wait_status)}')
        if self.ending is not None:
            parts.append(f'"receipt": {self.ending.receipt()}')
        return "{" + ", ".join(parts) + "}"


def main() -> None:
    at = sys.argv.index("--")
    control, status, grace, mark, run_id, *flags = sys.argv[1:at]
    for number in (int(control), int(status)):
        os.set_inheritable(number, False)
    if "--session" in flags:
        os.setsid()
    # The command's marks are not its own: who sweeps up after a lost driver must leave it to end what hides from them.
    os.environ[MARKER], os.environ[RUN] = mark, run_id
    keeper = Keeper(int(control), float(grace), mark, sys.argv[at + 1 :])
    keeper.prepare()
    report = keeper.run()
    try:
        os.write(int(status), report.encode() + b"\n")
    except OSError:
        # The driver is gone; there is nobody to tell.
        return


if __name__ == "__main__":
    main()
