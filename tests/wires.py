"""Connections that can be cut, and servers of a log that can be cut from each other."""

import asyncio
from contextlib import suppress
from pathlib import Path

from deploy.loopback import Cluster, Node, free_port

NOWHERE = '"127.0.0.1:9"'  # What the servers tell each other by themselves goes round no wire.


class Wire:
    """Whoever connects to it reaches a port of this machine, until it is cut or led to another."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.reached: list[int] = []
        """The port that each reached, in the order in which they came."""
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        self._is_cut = True
        self._abort()

    def mend(self) -> None:
        self._is_cut = False

    def lead_to(self, target: int) -> None:
        """Who is connected is cut off, and reaches the other port when he comes back."""
        self.target = target
        self._abort()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_cut:
            writer.transport.abort()
            return
        self.reached.append(self.target)
        with suppress(OSError):
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self.target)
            both = {writer, their_writer}
            self._writers |= both
            try:
                await asyncio.gather(_pour(reader, their_writer), _pour(their_reader, writer))
            finally:
                self._writers -= both
                for each in both:
                    each.close()
            return
        writer.close()


class WiredCluster(Cluster):
    """As `Cluster`, but made inside a loop, and each server can be cut from the others; its clients reach it."""

    nodes: list[Node]
    _wires: dict[tuple[int, int], Wire]

    @classmethod
    async def open(cls, folder: Path, size: int = 3) -> "WiredCluster":
        self = cls.__new__(cls)
        ports = [(free_port(), free_port(), free_port()) for _ in range(size)]
        self._wires = {(one, two): Wire(ports[two][1]) for one in range(size) for two in range(size) if one != two}
        at = {ends: await wire.start() for ends, wire in self._wires.items()}
        self.nodes = []
        for n in range(size):
            name = f"n{n + 1}"
            node = Node(name, folder / name, ports[n], [at[n, m] for m in range(size) if m != n], "always")
            conf = folder / name / "nats.conf"
            conf.write_text(conf.read_text().replace("cluster {", f"cluster {{ advertise: {NOWHERE}, "))
            self.nodes.append(node)
            node.start()
        await asyncio.to_thread(self.wait_until_ready)
        return self

    def cut(self, node: Node) -> None:
        """From now on this server and the others hear nothing of each other."""
        for wire in self._of(node):
            wire.cut()

    def mend(self, node: Node) -> None:
        for wire in self._of(node):
            wire.mend()

    async def close(self) -> None:
        self.stop()
        for wire in self._wires.values():
            await wire.close()

    def _of(self, node: Node) -> list[Wire]:
        number = self.nodes.index(node)
        return [wire for ends, wire in self._wires.items() if number in ends]


async def _pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while content := await source.read(65_536):
            target.write(content)
            await target.drain()
    finally:
        target.close()
