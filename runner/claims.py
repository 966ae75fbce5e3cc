"""The lease behind a claim: taken before the claim is written, renewed while it is held, given back with it."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import ParamSpec, TypeVar

from eventstore.boot import boot_id
from eventstore.contract import Presence
from eventstore.leases import LEASE_SECONDS, Lease, Leases, Waiting
from runfold.errors import Unavailable
from runner import machine
from runner.threads import in_thread

P = ParamSpec("P")
T = TypeVar("T")
RENEW_SECONDS = LEASE_SECONDS / 3


class Claims:
    """This process's leases, each one short thread hop away; `presence` tells other machines that it lives."""

    def __init__(self, leases: Leases, renew_seconds: float, presence: Presence | None = None) -> None:
        self._leases, self._renew_seconds, self._presence = leases, renew_seconds, presence
        self._turn = asyncio.Lock()
        self.worker = f"{machine.host()}:{os.getpid()}"

    @classmethod
    async def open(
        cls, data: Path, *, presence: Presence | None = None, renew_seconds: float = RENEW_SECONDS
    ) -> "Claims":
        return cls(await asyncio.to_thread(Leases.open, data), renew_seconds, presence)

    async def close(self) -> None:
        """After what is on its way, also where nobody waits for that any more."""
        async with self._turn:
            self._leases.close()

    async def _hop(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._turn:
            return await in_thread(function, *args, **kwargs)

    async def take(self, run_id: str, tenant: str, claim: int) -> None:
        """Say that this worker lives, and take the lease. Raises Fenced, Unavailable."""
        # Whoever sees the claim in the log must be able to see that its worker lives.
        if self._presence is not None:
            await self._presence.beat(self.worker)
        await self.take_again(run_id, tenant, claim)

    async def take_again(self, run_id: str, tenant: str, claim: int) -> None:
        """As `take`, when the claim is won: another may have tried meanwhile. Raises Fenced."""
        lease = Lease(
            run_id=run_id,
            tenant=tenant,
            claim=claim,
            owner=self.worker,
            host=machine.host(),
            boot_id=boot_id(),
            pid=os.getpid(),
            pid_started_at=machine.process_started_at(os.getpid()),
        )
        await self._hop(self._leases.take, lease)

    async def release(self, run_id: str, claim: int) -> None:
        await asyncio.shield(self._hop(self._leases.release, run_id, claim))

    async def attend(self) -> None:
        """Say again and again, until cancelled, that this worker is there, also while it drives nothing."""
        while True:
            # What cannot be said now is said the next time: nothing but a list of workers rests on it.
            with contextlib.suppress(Unavailable):
                await self._hop(self._leases.attend, self.worker, machine.host())
                if self._presence is not None:
                    await self._presence.beat(self.worker)
            await asyncio.sleep(self._renew_seconds)

    async def retire(self) -> None:
        """Say that this worker is there no more; other machines hear no more of it."""
        with contextlib.suppress(Unavailable):
            await asyncio.shield(self._hop(self._leases.retire, self.worker))

    @contextlib.asynccontextmanager
    async def waiting(self, run_id: str) -> AsyncGenerator[None]:
        """Tell others, while the block runs, that this process goes on with the run once it may."""
        pid = os.getpid()
        waiting = Waiting(
            run_id=run_id,
            host=machine.host(),
            boot_id=boot_id(),
            pid=pid,
            pid_started_at=machine.process_started_at(pid),
        )
        await self._hop(self._leases.wait, waiting)
        try:
            yield
        finally:
            await asyncio.shield(self._hop(self._leases.leave, waiting))

    @contextlib.asynccontextmanager
    async def renewing(self, run_id: str, claim: Callable[[], int], lost: Callable[[], None]) -> AsyncGenerator[None]:
        """Renew the run's lease beside the block while `claim` is not 0; `lost` is called when it is another's."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(self._renew_seconds)
                held = claim()
                if held and self._presence is not None:
                    # Nobody can say that he lives while the log has no leader, nor can his claim be taken then.
                    with contextlib.suppress(Unavailable):
                        await self._presence.beat(self.worker)
                # What cannot be written now is written the next time: a lease outlives two that are missed.
                with contextlib.suppress(Unavailable):
                    if held and not await self._hop(self._leases.renew, run_id, held) and claim() == held:
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
