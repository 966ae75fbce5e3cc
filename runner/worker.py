"""Takes queued runs and drives them, as many at once as it has slots, until it is told to stop.

It learns of them by reading the log, like everybody: what waits at the start from the views, what comes later from the
tail. A claim is a conditional append, so of several workers exactly one wins.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from eventstore.contract import EventLog, Page
from eventstore.failpoints import reach
from eventstore.ledger import Executed, Ledger
from eventstore.sqlite3_module import sqlite3
from projections.queued import QUEUES, queued_after
from projections.run_list import RunFilter, list_runs
from projections.service import ViewService
from projections.spending import Left, no_budgets
from runfold.commands import Claim, Fail
from runfold.errors import Damaged, InvalidSetting, NotAllowed, NotFound, Refused, RunfoldError, Trimmed, Unavailable
from runfold.events import Failure, RunClaimed, event_class
from runfold.ordered_ids import ordered_id
from runfold.state import Run
from runfold.workflows import Registry
from runner import machine
from runner.claims import Claims
from runner.driving import Driving, first_of
from runner.heeding import Charge
from runner.launch import launch_of, order_of_run
from runner.prices import check_price
from runner.steps.stepping import driving_of

SLOTS = 4
QUEUED_PAGE = 200
LOOK_SECONDS = 1.0  # Until the next try of what could not be looked at, or taken.
_TOLD_ON = frozenset({"lifecycle", "audit"})

logger = structlog.get_logger()


class Worker:
    def __init__(
        self,
        ledger: Ledger,
        log: EventLog,
        views: ViewService,
        claims: Claims,
        *,
        data: Path,
        registry: Callable[[], Registry],
        slots: int = SLOTS,
        left: Left = no_budgets,
    ) -> None:
        """`registry` is asked for each run, so that a corrected runfold.toml counts at once; `left` for each start."""
        self._ledger, self._log, self._views, self._claims = ledger, log, views, claims
        self._data, self._registry, self._slots, self._left = data, registry, slots, left
        self._waiting: dict[str, None] = {}
        self._unanswered: dict[str, str] = {}
        """The command ids of claims that may have been won and are not driven yet, by run."""
        self._drivings: dict[Driving, asyncio.Task[None]] = {}
        self._moved = asyncio.Event()
        self._found_to: int | None = None
        """Up to here the log itself was asked who waits; None while the views can tell."""
        self._is_unsure = asyncio.Event()
        self._is_unsure.set()

    async def work(self, stop: asyncio.Event) -> None:
        """Until `stop`: then nothing new is taken, and what runs is handed over or stopped within its grace."""
        position = (await self._log.bounds()).last
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(self._look_up()),
                group.create_task(self._follow(position)),
                group.create_task(self._wake_at(stop)),
                group.create_task(self._claims.attend()),
            ]
            while not stop.is_set():
                while self._waiting and len(self._drivings) < self._slots and not stop.is_set():
                    run_id = next(iter(self._waiting))
                    del self._waiting[run_id]
                    await self._begin(run_id, group)
                await self._moved.wait()
                self._moved.clear()
            for run_id in list(self._unanswered):
                await self._begin_won(run_id, group)
            for driving in self._drivings:
                driving.hand_over()
            if self._drivings:
                # They hear of a cancel to their last moment.
                await asyncio.wait(list(self._drivings.values()))
            for task in beside:
                task.cancel()
        await self._claims.retire()

    async def _look_up(self) -> None:
        """Find who waits already; where views have much to fold first, who is queued meanwhile is taken before them."""
        while True:
            await self._is_unsure.wait()
            self._is_unsure.clear()
            try:
                has_all = await self._find_waiting()
            except RunfoldError as error:
                logger.warning("who waits cannot be looked up now: %s", error)
                has_all = False
            if not has_all:
                await asyncio.sleep(LOOK_SECONDS)
                self._is_unsure.set()

    async def _find_waiting(self) -> bool:
        """Whether the views had all of them."""
        if self._found_to is not None and not await self._find_logged(self._found_to):
            return False
        self._found_to = since = cursor = None
        while True:
            wanted = RunFilter(tenant=None, status=("queued",), order="asc", limit=QUEUED_PAGE, cursor=cursor)
            page, freshness = await self._views.query_whole(list_runs, wanted)
            since = freshness.position if since is None else since
            self._add_waiting(item.id for item in page.items if item.driver == "queue")
            cursor = page.next_cursor
            is_stuck = bool(freshness.behind and self._log.damaged)
            if cursor is None or (freshness.behind and not is_stuck):
                break
        # Views stay before an event that was altered; who was queued behind it is driven all the same.
        return await self._find_logged(since) if is_stuck else not freshness.behind

    async def _find_logged(self, since: int) -> bool:
        """Find who was queued after a position of the log, itself; whether the views have all of them by now."""
        while True:
            (found, upto), freshness = await self._views.query(queued_after, since)
            self._add_waiting(found)
            if upto == since:
                return not freshness.behind
            self._found_to = since = upto

    def _add_waiting(self, run_ids: Iterable[str]) -> None:
        self._waiting.update(dict.fromkeys(run_ids))
        self._moved.set()

    async def _follow(self, position: int) -> None:
        while True:
            try:
                async for page in self._log.tail(after=position):
                    self._hear(page)
                    position = page.scanned_to
            except Trimmed as error:
                logger.warning(
                    "events that this worker had not read were taken from the log; it goes on with what is left",
                    first=error.earliest,
                )
                position = error.earliest - 1
                # What was to be heard of it is looked up: who waits, and what was asked of the runs at work.
                self._is_unsure.set()
                for driving in self._drivings:
                    driving.stir()
            except (Damaged, sqlite3.Error) as error:
                # What it drives goes on, and looks for itself at what is asked of it.
                logger.error("the log cannot be followed: %s", error)
                for driving in self._drivings:
                    driving.stir()
                # And who waits behind it is looked up.
                self._is_unsure.set()
                await asyncio.sleep(LOOK_SECONDS)
            except Unavailable as error:
                # What it drives goes on meanwhile, and waits by itself for what it has to append.
                logger.warning("the log cannot be followed now: %s", error)
                await asyncio.sleep(error.retry_after_seconds)

    def _hear(self, page: Page) -> None:
        moved: set[str] = set()
        for recorded in page.events:
            if recorded.type in QUEUES:
                self._waiting[recorded.run_id] = None
            elif recorded.type == "run_claimed" and recorded.run_id not in self._unanswered:
                self._waiting.pop(recorded.run_id, None)
            if event_class(recorded.type) in _TOLD_ON:
                moved.add(recorded.run_id)
        # One reader for all of them: a reader each would look at the log at every line that any of them prints.
        for driving in [it for it in self._drivings if it.run_id in moved]:
            driving.stir()
        self._moved.set()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._moved.set()

    async def _begin(self, run_id: str, group: asyncio.TaskGroup) -> None:
        taken = await self._take(run_id)
        if taken is not None:
            self._drivings[taken[0]] = group.create_task(self._drive(*taken))

    async def _begin_won(self, run_id: str, group: asyncio.TaskGroup) -> None:
        """Have what was won unheard, to be handed over; else nobody would go on with it before its lease ends."""
        with contextlib.suppress(RunfoldError):
            if (await self._ledger.state(run_id)).worker == self._claims.worker:
                await self._begin(run_id, group)

    async def _take(self, run_id: str) -> tuple[Driving, int] | None:
        """Claim the run, at the position that is answered; None where it is not, or no longer, a worker's to take."""
        executed = driving = None
        try:
            executed = await self._claim(run_id)
            driving = None if executed is None else await self._driving(executed.run)
        except (Refused, NotFound, InvalidSetting):
            pass
        except Damaged as error:
            # The others are driven.
            logger.error("a run cannot be taken: %s", error, run_id=run_id, hint=error.hint)
        except (Unavailable, sqlite3.Error) as error:
            # What it drives goes on meanwhile.
            logger.warning("a run cannot be taken now: %s", error, run_id=run_id)
            self._waiting[run_id] = None
            await asyncio.sleep(LOOK_SECONDS)
            return None
        self._unanswered.pop(run_id, None)
        return None if executed is None or driving is None else (driving, executed.events[-1].position)

    async def _claim(self, run_id: str) -> Executed | None:
        """What was sent and may have been won is sent again as it was, and answered as the first time."""
        run = await self._ledger.state(run_id)
        if run.status == "queued" and run.driver == "queue" and not run.worker and await self._is_for_here(run):
            # The lease comes first, and once more when the claim is won: another may have tried meanwhile.
            await self._claims.take(run_id, run.tenant, run.claim + 1)
        elif run_id not in self._unanswered:
            return None
        reach("before.Claim")
        executed = await self._ledger.execute(
            run_id,
            Claim(worker=self._claims.worker, host=machine.host()),
            command_id=self._unanswered.setdefault(run_id, ordered_id()),
            actor=f"worker:{self._claims.worker}",
            tenant=run.tenant,
        )
        reach("after.Claim")
        won = executed.events[-1].event()
        if not (isinstance(won, RunClaimed) and executed.run.worker and executed.run.claim == won.claim):
            # Won, and lost before that was heard: it may wait for a worker again.
            self._waiting[run_id] = None
            return None
        # Where that cannot be written now, the first one stands.
        with contextlib.suppress(Unavailable):
            await self._claims.take_again(run_id, run.tenant, won.claim)
        return executed

    async def _is_for_here(self, run: Run) -> bool:
        """A command that somebody typed is repeated by his own account on his own machine, and nowhere else."""
        if run.workflow is not None:
            return True
        return (await order_of_run(self._log, run.run_id)).typed_by in ("", machine.account())

    async def _driving(self, run: Run) -> Driving | None:
        try:
            order = await order_of_run(self._log, run.run_id)
            workflow = self._registry().workflows.get(order.workflow) if order.workflow is not None else None
            launch = launch_of(order, workflow)
            check_price(
                launch.argv,
                run.limits,
                format_name=launch.format,
                model=launch.model,
                steps=run.steps,
                budgets=await self._left(run),
            )
        except (InvalidSetting, NotAllowed) as error:
            failure = Failure(code="SYS_MANIFEST_INVALID", message=f"{error.message}; {error.hint}")
            await self._fail(run, failure)
            return None
        return driving_of(run.steps, slots=self._slots)(
            Charge(
                ledger=self._ledger,
                log=self._log,
                claims=self._claims,
                launch=launch,
                data=self._data,
                run_id=run.run_id,
                tenant=run.tenant,
                claim=run.claim,
                resumes=run.started,
                is_stirred=True,
                left=self._left,
            )
        )

    async def _drive(self, driving: Driving, position: int) -> None:
        try:
            run = await driving.drive(after=position)
            logger.info("run driven", run_id=run.run_id, status=run.status, reason_code=run.reason_code)
        except* (RunfoldError, sqlite3.Error) as broke:
            # The log takes nothing more, or the run is somebody else's: its next worker goes on from the record.
            logger.error("run given up", run_id=driving.run_id, error=str(first_of(broke)))
        finally:
            self._drivings.pop(driving, None)
            self._moved.set()

    async def _fail(self, run: Run, error: Failure) -> None:
        try:
            await self._ledger.execute(
                run.run_id,
                Fail(claim=run.claim, reason_code=error.code, error=error),
                actor=f"worker:{self._claims.worker}",
                tenant=run.tenant,
            )
        except Refused as refused:
            logger.warning("run taken away", run_id=run.run_id, error=refused.message)
        await self._claims.release(run.run_id, run.claim)
