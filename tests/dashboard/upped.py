"""`runfold up` in a process of its own, for pages that must outlive it or see it drive."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import ClientSession


class Server:
    """A real server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, link: str, data: Path) -> None:
        self.process, self.link = process, link
        self.origin = "{0.scheme}://{0.netloc}".format(urlsplit(link))
        self._headers = {"Authorization": f"Bearer {(data / 'token').read_text().strip()}"}

    async def ask(self, path: str, body: object) -> dict[str, str]:
        async with (
            ClientSession(headers=self._headers) as session,
            session.post(self.origin + path, json=body) as answer,
        ):
            assert answer.status < 300, await answer.text()
            return dict(await answer.json())

    async def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def server(data: Path, port: int = 0, *, cwd: Path | None = None) -> AsyncGenerator[Server]:
    """`cwd` is the folder from which the program is taken, where it is not this one."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runfold", "--data", str(data), "up", "--port", str(port), "--workers", "1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, cwd=cwd,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield Server(process, (await process.stdout.readline()).decode().strip(), data)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
