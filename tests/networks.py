"""Servers of a log, each on a machine of its own as far as the network goes; any can be unplugged.

Linux alone has it (network_namespaces(7), veth(4)), for root: whoever makes one first leaves the machine's own network.
"""

import ctypes
import os
import subprocess
from pathlib import Path

from deploy.loopback import Cluster, Node

NEW_NETWORK = 0x40000000  # CLONE_NEWNET (unshare(2)).
NETWORK = "10.77.0"
CLIENTS, SERVERS, MONITOR = 4222, 6222, 8222
_libc = ctypes.CDLL(None, use_errno=True)


def leave_network() -> None:
    """From now on this process, and what it starts, has a network of its own, with one switch in it. Raises OSError."""
    if _libc.unshare(NEW_NETWORK):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _ip("link", "set", "lo", "up")
    _ip("link", "add", "switch", "type", "bridge")
    _ip("addr", "add", f"{NETWORK}.1/24", "dev", "switch")
    _ip("link", "set", "switch", "up")


class Plugged(Node):
    """A server with an address of its own, at the other end of a cable to the switch."""

    def __init__(self, number: int, folder: Path, size: int) -> None:
        self.name = f"n{number}"
        self.address = f"{NETWORK}.{number + 1}"
        self.client_port, self.monitor_port = CLIENTS, MONITOR
        self._folder, self._cable = folder, f"cable{number}"
        folder.mkdir(parents=True)
        self._file, self._log = folder / "nats.conf", folder / "log.txt"
        self._process = None
        routes = ", ".join(f'"nats://{NETWORK}.{n + 2}:{SERVERS}"' for n in range(size) if n + 1 != number)
        self._file.write_text(
            f'server_name: {self.name}\nlisten: "0.0.0.0:{CLIENTS}"\nclient_advertise: "{self.address}:{CLIENTS}"\n'
            f'http: "0.0.0.0:{MONITOR}"\n'
            f'jetstream {{ store_dir: "{folder}/js", max_file: 4GB, sync_interval: always }}\n'
            f'cluster {{ name: test, listen: "0.0.0.0:{SERVERS}", advertise: "{self.address}:{SERVERS}", '
            f"routes: [{routes}] }}\n"
        )

    def start(self) -> None:
        super().start()
        assert self._process is not None
        there = str(self._process.pid)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", there)
        _ip("link", "set", self._cable, "master", "switch", "up")
        for words in (("addr", "add", f"{self.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _run("nsenter", "-t", there, "-n", "ip", *words)

    def begin(self) -> None:
        super().begin()
        _libc.unshare(NEW_NETWORK)

    def unplug(self) -> None:
        """What is sent to it, and what it sends, is lost, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def plug(self) -> None:
        _ip("link", "set", self._cable, "up")


class PluggedCluster(Cluster):
    """As `Cluster`, in the network that this process has of its own."""

    nodes: list[Plugged]  # type: ignore[assignment]  # Each is a node.

    def __init__(self, folder: Path, size: int = 3) -> None:
        self.nodes = [Plugged(n + 1, folder / f"n{n + 1}", size) for n in range(size)]
        for node in self.nodes:
            node.start()
        self.wait_until_ready()


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
