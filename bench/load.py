"""A client in a process of its own, on bare sockets, so that what it costs is not taken from the server it measures.

`python -m bench.load post PORT PATH TOKEN CONNECTIONS REQUESTS` sends the body on its standard input again and again,
`{n}` in the path replaced by the connection's number; without a body it gets the path.
`... take PORT PATH TOKEN CLIENTS BYTES` reads streams until each client has had so many bytes. Both print JSON.
"""

import asyncio
import json
import sys
import time

HOST = "127.0.0.1"


def _percentile(waits: list[float], share: float) -> float:
    return sorted(waits)[int(len(waits) * share)] * 1000


async def post(port: int, path: str, token: str, connections: int, requests: int) -> dict[str, float]:
    body = sys.stdin.buffer.read()
    waits: list[float] = []

    async def send(number: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        request = (
            f"{'POST' if body else 'GET'} {path.replace('{n}', str(number))} HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        for _ in range(requests // connections):
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 20"):
                raise SystemExit(head.decode())
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line[15:]))
            waits.append(time.perf_counter() - started)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(send(number) for number in range(connections)))
    seconds = time.perf_counter() - started
    return {"rate": len(waits) / seconds, "p50_ms": _percentile(waits, 0.5), "p99_ms": _percentile(waits, 0.99)}


class _Taker(asyncio.Protocol):
    """Counts what comes; the head of the answer counts too. `first_at`: when the first event came."""

    def __init__(self, request: bytes, size_bytes: int) -> None:
        self._request = request
        self._left_bytes = size_bytes
        self.first_at = 0.0
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.first_at and b"data: " in data:
            self.first_at = time.perf_counter()
        self._left_bytes -= len(data)
        if self._left_bytes <= 0 and not self.done.done():
            self.done.set_result(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or EOFError(f"{self._left_bytes} bytes are missing"))


async def take(port: int, path: str, token: str, clients: int, size_bytes: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    started = time.perf_counter()
    takers = [
        (await loop.create_connection(lambda: _Taker(request, size_bytes), HOST, port))[1] for _ in range(clients)
    ]
    ends = await asyncio.gather(*(taker.done for taker in takers))
    return {"seconds": max(ends) - started, "first_ms": (takers[0].first_at - started) * 1000}


def main() -> None:
    mode, port, path, token, number, count = sys.argv[1:]
    work = {"post": post, "take": take}[mode](int(port), path, token, int(number), int(count))
    print(json.dumps(asyncio.run(work)))


if __name__ == "__main__":
    main()
