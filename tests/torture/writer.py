"""A program that appends and stores blobs from several callers at once, and says each time what was acknowledged.

`writer FOLDER ROUNDS [normal]`: with `normal` the log promises less than it should, as a control.
"""

import asyncio
import os
import sys
import uuid
from pathlib import Path

from eventstore.objects import blobs
from eventstore.sqlite import SqliteLog, hop
from tests.torture.soundness import new

CALLERS = 4


async def write(data: Path, rounds: int, *, weak: bool) -> None:
    log = await SqliteLog.open(data)
    if weak:
        await hop(log._writes, lambda: log._writer.connection.execute("PRAGMA synchronous = NORMAL"))

    async def call(caller: int) -> None:
        expected = 0
        for number in range(rounds) if rounds else iter(int, 1):
            identities = [str(uuid.uuid4()) for _ in range(1 + number % 3)]
            events = [new(f"{caller} {number} " + "x" * 300, identity) for identity in identities]
            appended = await log.append(f"r_{caller}", events, expected=expected)
            expected = appended.last
            said = "".join(
                f"event r_{caller} {appended.first + offset} {identity}\n" for offset, identity in enumerate(identities)
            )
            if number % 10 == 0:
                said += f"blob {blobs.put(data, f'{caller} {number} '.encode() * 999)}\n"
            os.write(1, said.encode())

    await asyncio.gather(*(call(caller) for caller in range(CALLERS)))
    await log.close()


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2]), weak="normal" in sys.argv))
