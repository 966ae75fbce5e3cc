"""A run that said its password everywhere."""

import hashlib
from pathlib import Path

from eventstore.ledger import Ledger
from eventstore.objects import blobs
from eventstore.sqlite import SqliteLog
from projections.engine.views import Views
from runfold.commands import Complete, Observe, OpenReported
from runfold.events import (
    ArtifactStored,
    CommandExecuted,
    FileWritten,
    Message,
    RunQueued,
    SubprocessOutput,
    TokenUsage,
    TurnCompleted,
    TurnStarted,
)
from tests.ledgers import RUN, act

SECRET = "hunter2-swordfish"
LONG = "a line of it\n" * 8_000


async def record(data: Path, *, secret: str = SECRET, ended: bool = True) -> None:
    """The run says it in its order, its messages, its output, a blob and an artifact."""
    log = await SqliteLog.open(data)
    ledger = Ledger(log, data=data)
    output = f"login {secret}\nok\n".encode()
    folder = data / "runs" / RUN
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "output.log").write_bytes(output)
    sha256 = blobs.put(data, f"password: {secret}".encode())
    queued = RunQueued(driver="reported", title=f"deploy with {secret}", command=("deploy", "-p", secret))
    await act(ledger, OpenReported(queued=queued))
    await act(ledger, Observe(events=(TurnStarted(turn=1),)))
    await act(
        ledger,
        Observe(
            events=(
                Message(text=f"I use {secret}"),
                CommandExecuted(command="deploy", exit_code=0, output_tail=LONG + secret),
                SubprocessOutput(text=f"login {secret}\n", stream="stdout"),
                FileWritten(path="a.py"),
                TokenUsage(input_tokens=5, output_tokens=7, cost_micros=12),
                ArtifactStored(artifact_id="1", name="a", sha256=sha256, size_bytes=10),
            )
        ),
    )
    ending = TurnCompleted(
        turn=1, exit_code=0, output_bytes=len(output), output_sha256=hashlib.sha256(output).hexdigest()
    )
    if ended:
        await act(ledger, Observe(events=(ending,)))
        await act(ledger, Complete(message=f"done, {secret}"))
    await log.close()
    views = Views.open(data)
    views.refresh()
    views.close()
