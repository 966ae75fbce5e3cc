"""Three servers of a replicated log on this machine, for trying it and for tests; real machines use `nats.conf`."""

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

START_SECONDS = 30.0
LOOK_SECONDS = 0.02
PORTS = range(15_000, 32_768)  # Below those that Linux hands out, see ip(7), ip_local_port_range.
_given: set[int] = set()


def server_binary() -> str | None:
    """The server that the development requirements install, or one on the path."""
    return shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")


class Node:
    """One server, as its own process with its own folder."""

    address = "127.0.0.1"

    def __init__(self, name: str, folder: Path, ports: tuple[int, int, int], routes: list[int], sync: str) -> None:
        self.name = name
        self.client_port, cluster_port, self.monitor_port = ports
        folder.mkdir(parents=True)
        self._file = folder / "nats.conf"
        self._log = folder / "log.txt"
        urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self._file.write_text(
            f"server_name: {name}\nhost: 127.0.0.1\nport: {self.client_port}\n"
            f'http: "127.0.0.1:{self.monitor_port}"\n'
            f'jetstream {{ store_dir: "{folder}/js", max_file: 4GB, sync_interval: {sync} }}\n'
            + (f"cluster {{ name: test, host: 127.0.0.1, port: {cluster_port}, routes: [{urls}] }}\n" if routes else "")
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = server_binary()
        if binary is None:
            raise FileNotFoundError("nats-server is not installed: `make test` installs it from the lock")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "-c", str(self._file)], stdout=log, stderr=log, preexec_fn=self.begin
            )

    def begin(self) -> None:
        """In the server's process, before it is a server."""
        _end_with_parent()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def stand_still(self) -> None:
        """Until `go_on`: it neither answers nor is it gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            # Its threads stop one after the other; until the last has, it may still answer.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}:{self.monitor_port}{path}", timeout=2) as answer:
            return json.load(answer)


class Cluster:
    """Started and ready when it is made; `stop` ends every server."""

    def __init__(self, folder: Path, size: int = 3, *, sync: str = "always") -> None:
        ports = [(free_port(), free_port(), free_port()) for _ in range(size)]
        self.nodes = [
            Node(f"n{n + 1}", folder / f"n{n + 1}", ports[n], [other[1] for other in ports if other != ports[n]], sync)
            for n in range(size)
        ]
        for node in self.nodes:
            node.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        ends = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if time.monotonic() > ends:
                raise TimeoutError(f"the servers were not ready in {START_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)

    def _is_ready(self) -> bool:
        try:
            healthy = all(node.ask("/healthz").get("status") == "ok" for node in self.nodes)
            return healthy and (
                len(self.nodes) == 1 or bool(self.nodes[0].ask("/jsz").get("meta_cluster", {}).get("leader"))
            )
        except (OSError, ValueError):
            return False

    def url(self, name: str) -> str:
        return "nats://" + ",".join(f"{node.address}:{node.client_port}" for node in self.nodes) + f"/{name}"

    def stop(self) -> None:
        for node in self.nodes:
            node.kill(signal.SIGKILL)


def _end_with_parent() -> None:
    """Tests that are killed leave no server behind (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port() -> int:
    """One that nobody has, and that the system gives to nobody who asks for any port, nor to who connects somewhere.

    This process is given none twice: who asks for several at once, or starts a server again, keeps what it was given.
    """
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
