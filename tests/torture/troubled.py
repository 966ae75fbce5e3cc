"""A server without HTTP whose views lie on a disk that fails for a while; it says what became of it.

`troubled FOLDER ERRNO CALLS`: it goes on failing until so many more calls have; whoever starts this puts the faults
under the views.
"""

import asyncio
import json
import sys
from pathlib import Path

from cli.node import Node, open_node, work
from cli.settings import load_settings
from projections.run_list import RunFilter, list_runs
from runfold.commands import OpenReported
from runfold.events import RunQueued
from tests.torture.shim import arm, calls

ALL = RunFilter(tenant=None)
NEVER = 1 << 40


async def report(node: Node, run_id: str) -> None:
    begin = OpenReported(queued=RunQueued(driver="reported"))
    await node.ledger.execute(run_id, begin, actor="user:a", tenant="default")


async def ask(node: Node) -> str:
    try:
        return "stale" if (await node.views.query(list_runs, ALL))[1].stale else "current"
    except Exception as error:
        return type(error).__name__


async def main(data: Path, error: int, more_calls: int) -> dict[str, object]:
    stop = asyncio.Event()
    async with open_node(load_settings({"data": str(data)}, environ={}, folder=data)) as node:
        working = asyncio.create_task(work(node, slots=1, stop=stop))
        await report(node, "r_" + "a" * 26)
        await ask(node)
        # Before there is more to fold, which somebody else may do at once.
        arm(1, error, 0)
        await report(node, "r_" + "b" * 26)
        said = await ask(node)
        upto = calls() + more_calls
        while calls() < upto and not working.done():
            await asyncio.wait([working], timeout=0.01)
        arm(NEVER, error, 1)
        then = await ask(node)
        stop.set()
        await asyncio.wait([working])
    broke = working.exception()
    return {"said": said, "then": then, "broke": None if broke is None else repr(broke)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))))
