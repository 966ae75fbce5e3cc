"""Many clients in one process: plain sockets and one epoll loop that counts events, so that the server is what is slow.

`python -m bench.watchers PORT PATH TOKEN CLIENTS` says `ready` when each has the head of its answer. For each number on
standard input it then waits for so many events over all clients and prints one JSON line: how many came, the seconds
from the first to the last, and on some of the clients the milliseconds from each event's `"t"` (monotonic nanoseconds).
"""

import json
import re
import select
import socket
import sys
import time

from bench.load import HOST
from bench.scoreboard import percentile

SAMPLED = 200
PATIENCE_SECONDS = 60.0
READ_BYTES = 256 * 1024
_MARK = b"\ndata: "
_TIME = re.compile(rb'"t":([0-9]{10,20})')


class Watcher:
    def __init__(self, line: socket.socket, *, is_sampled: bool) -> None:
        self.line = line
        self.is_sampled = is_sampled
        self._rest = b""

    def take(self, waits_ms: list[float]) -> int:
        """How many whole events came."""
        content = self._rest + self.line.recv(READ_BYTES)
        now = time.monotonic_ns()
        end = content.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = content
            return 0
        whole, self._rest = content[:end], content[end:]
        if self.is_sampled:
            waits_ms += [(now - int(at)) / 1e6 for at in _TIME.findall(whole)]
        return whole.count(_MARK)


def connected(port: int, path: str, token: str, clients: int) -> dict[int, Watcher]:
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    lines: list[socket.socket] = []
    for _ in range(clients):
        line = socket.create_connection((HOST, port), PATIENCE_SECONDS)
        line.sendall(request)
        lines.append(line)
    for line in lines:
        head = b""
        while b"retry: " not in head:
            piece = line.recv(4096)
            if not piece:
                raise SystemExit(f"no stream: {head!r}")
            head += piece
        line.setblocking(False)
    every = max(1, clients // SAMPLED)
    return {line.fileno(): Watcher(line, is_sampled=not n % every) for n, line in enumerate(lines)}


def watch(watchers: dict[int, Watcher], poll: select.epoll, wanted: int) -> dict[str, float]:
    came, waits_ms = 0, [0.0][:0]
    first = last = time.perf_counter()
    gives_up_at = first + PATIENCE_SECONDS
    while came < wanted and time.perf_counter() < gives_up_at:
        found = poll.poll(1.0)
        if not came:
            first = time.perf_counter()
        for number, _ in found:
            came += watchers[number].take(waits_ms)
        if found:
            last = time.perf_counter()
    return {"came": came, "seconds": last - first, "p99_ms": percentile(waits_ms or [0.0], 0.99)}


def main() -> None:
    port, path, token, clients = sys.argv[1:]
    watchers = connected(int(port), path, token, int(clients))
    poll = select.epoll()
    for number in watchers:
        poll.register(number, select.EPOLLIN)
    print("ready", flush=True)
    for line in sys.stdin:
        print("go", flush=True)
        print(json.dumps(watch(watchers, poll, int(line))), flush=True)


if __name__ == "__main__":
    main()
