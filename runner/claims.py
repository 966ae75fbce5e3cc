"""The lease behind a claim: taken before the claim is written, renewed while it is held, given back with it."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path

from eventstore.leases import LEASE_SECONDS, Lease, Leases
from runner import machine

RENEW_SECONDS = LEASE_SECONDS / 3


class Claims:
    """This process's leases; every call is one short thread hop."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self.worker = f"{machine.host()}:{os.getpid()}"

    @classmethod
    async def open(cls, data: Path) -> "Claims":
        return cls(await asyncio.to_thread(Leases.open, data))

    def close(self) -> None:
        self._leases.close()

    async def take(self, run_id: str, tenant: str, claim: int) -> None:
        lease = Lease(
            run_id=run_id,
            tenant=tenant,
            claim=claim,
            owner=self.worker,
            host=machine.host(),
            boot_id=machine.boot_id(),
            pid=os.getpid(),
            pid_started_at=machine.process_started_at(os.getpid()),
        )
        await asyncio.to_thread(self._leases.take, lease)

    async def release(self, run_id: str, claim: int) -> None:
        await asyncio.shield(asyncio.to_thread(self._leases.release, run_id, claim))

    @contextlib.asynccontextmanager
    async def renewing(self, run_id: str, claim: Callable[[], int], lost: Callable[[], None]) -> AsyncGenerator[None]:
        """Renew the run's lease beside the block while `claim` is not 0; `lost` is called when it is another's."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(RENEW_SECONDS)
                held = claim()
                if held and not await asyncio.to_thread(self._leases.renew, run_id, held) and claim() == held:
                    lost()

        async with background(renew()):
            yield


@contextlib.asynccontextmanager
async def background(work: Coroutine[object, object, None]) -> AsyncGenerator[None, None]:
    """Run `work` beside the block and end it with the block; its failure ends the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        finally:
            task.cancel()
