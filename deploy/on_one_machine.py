"""`make cluster`: three servers of a log, two servers of runfold and two workers, all on this machine, until Ctrl-C."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.loopback import Cluster

SERVERS = 2
WORKERS = 2
WORKFLOW = """\
[workflow.hello]
command = ["sh", "-c", "for n in 1 2 3 4 5; do echo line $n; sleep 1; done"]
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="runfold-cluster-") as name:
        folder = Path(name)
        (folder / "runfold.toml").write_text(WORKFLOW)
        cluster = Cluster(folder / "nats")
        address = cluster.url("runfold")
        processes: list[subprocess.Popen[str]] = []
        try:
            print(f"three servers of the log: {address}", flush=True)
            for number in range(SERVERS):
                server = _start(folder, address, f"server-{number + 1}", "up", "--port", "0", "--workers", "0")
                processes.append(server)
                link = server.stdout.readline().strip() if server.stdout is not None else ""
                print(f"server {number + 1}: {link}", flush=True)
            for number in range(WORKERS):
                processes.append(_start(folder, address, f"worker-{number + 1}", "worker"))
            print(
                f"{WORKERS} workers wait for runs. In another terminal:\n\n"
                f"    cd {folder}\n    {sys.executable} -m runfold --data server-1 run --workflow hello --detach\n\n"
                f"Watch it on either server; kill what you like (processes: "
                f"{', '.join(str(process.pid) for process in processes)}). Ctrl-C ends all.",
                flush=True,
            )
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait()
            cluster.stop()


def _start(folder: Path, address: str, name: str, *words: str) -> "subprocess.Popen[str]":
    log = (folder / f"{name}.log").open("w")
    return subprocess.Popen(
        [sys.executable, "-m", "runfold", "--data", str(folder / name), "--log", address, *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "RUNFOLD_BLOBS": f"file://{folder / 'store'}",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )


if __name__ == "__main__":
    main()
