"""A server whose log lies on a disk that gives nothing back for a while; it says what its readers are answered.

`unread FOLDER ERRNO`: whoever starts this puts the faults under the log.
"""

import asyncio
import json
import sys
from pathlib import Path

from tests.served import Served, note, serving
from tests.torture.shim import arm

NEVER = 1 << 40


async def ask(served: Served, path: str) -> tuple[int, str, str]:
    async with await served.ask("GET", path) as response:
        if response.status == 200:
            return 200, "", ""
        problem = await response.json()
        return response.status, problem["code"], problem["hint"]


async def main(data: Path, error: int) -> dict[str, object]:
    async with serving(data) as served:
        run_id = await served.open_run(title="a")
        # The readers have nothing of it in memory.
        await served.report(run_id, note(1))
        paths = [f"/api/runs/{run_id}/events", f"/api/runs/{run_id}/stream", "/readyz"]
        arm(1, error, 0)
        said = [await ask(served, path) for path in paths]
        arm(NEVER, error, 1)
        then = [await ask(served, path) for path in paths]
    return {"said": said, "then": then}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))))
