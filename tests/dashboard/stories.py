"""Runs as a studio has them on an ordinary day, written into a log: what the dashboard's pictures show."""

import random
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from eventstore.contract import Appended
from runfold.envelope import NewEvent
from runfold.events import (
    ApprovalRequested,
    CancelRequested,
    Event,
    Failure,
    FileWritten,
    LimitExceeded,
    Message,
    NoteAdded,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunQueued,
    RunStarted,
    RunStopped,
    StepCompleted,
    StepFailed,
    StepMarkedForRerun,
    StepSpec,
    StepStarted,
    TestRunCompleted,
    TokenUsage,
    ToolCalled,
    ToolReturned,
    TurnCompleted,
    TurnStarted,
    UnitApproved,
    UnitFailed,
    UnitStarted,
    encode_data,
    event_type,
)

Moment = tuple[float, Event]
"""Seconds after the run began, and what happened then."""
MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
STEPS = (
    StepSpec(id="game_config"),
    StepSpec(id="bgm_track", needs=("game_config",)),
    StepSpec(id="tileset", needs=("game_config",)),
    StepSpec(id="player_sprite", needs=("game_config",)),
    StepSpec(id="enemy_sprite", needs=("game_config",)),
    StepSpec(id="bundle_game", needs=("bgm_track", "tileset", "player_sprite", "enemy_sprite")),
    StepSpec(id="smoke_test", needs=("bundle_game",)),
    StepSpec(id="manifest", needs=("bundle_game", "smoke_test")),
)
STACK = """Traceback (most recent call last):
  File "studio/pack.py", line 88, in pack
    atlas.place(frame)
  File "studio/atlas.py", line 41, in place
    raise AtlasFull(f"frame {frame.name} does not fit into {self.size}")
AtlasFull: frame blaze_run_07 does not fit into 1024x1024"""


class Writable(Protocol):
    async def append(self, stream: str, events: Sequence[NewEvent], *, expected: int) -> Appended: ...


class Past:
    """A log's clock, and the log as those write to it who wrote then: what is recorded is as old as it says."""

    def __init__(self) -> None:
        self._at_us: int | None = None

    def now_us(self) -> int:
        return time.time_ns() // 1_000 if self._at_us is None else self._at_us

    def writing(self, log: Writable) -> Writable:
        past = self

        class Then:
            async def append(self, stream: str, events: Sequence[NewEvent], *, expected: int) -> Appended:
                past._at_us = events[-1].at_us
                try:
                    return await log.append(stream, events, expected=expected)
                finally:
                    past._at_us = None

        return Then()


async def write(log: Writable, run_id: str, ago: float, moments: Sequence[Moment], **queued: Any) -> str:
    """One run that began so many seconds ago."""
    tenant, is_waiting = queued.pop("tenant", "default"), queued.get("driver") == "queue" and not moments
    opened: list[Moment] = [
        (0.0, RunQueued(driver=queued.pop("driver", "reported"), **queued)),
        (0.4, RunStarted(worker="studio-1")),
    ]
    if is_waiting:
        del opened[1:]
    began_us = round((time.time() - ago) * 1e6)
    events = [
        NewEvent(
            id=str(uuid.uuid4()),
            type=event_type(event),
            data=encode_data(event),
            at_us=began_us + round(after * 1e6),
            tenant=tenant,
            actor="user:mira" if isinstance(event, RunQueued | CancelRequested | NoteAdded) else "agent:studio",
            command=str(uuid.uuid4()),
        )
        for after, event in [*opened, *moments]
    ]
    await log.append(run_id, events, expected=0)
    return run_id


def name(number: int) -> str:
    return f"r_{uuid.UUID(int=number).hex[-26:]}"


async def a_game(log: Writable, number: int, *, ago: float, ends: str = "") -> str:
    """A game in eight steps: one from the cache, one at its second try, one at work, two to come; or at its end."""
    spent = TokenUsage(model="claude-sonnet-4-5", input_tokens=18_400, output_tokens=2_150, cost_micros=87_450)
    moments: list[Moment] = [
        (2, StepStarted(step="game_config", skill="configure", input={"genre": "platformer", "seed": 7})),
        (9, StepCompleted(step="game_config", output={"file": "game.json", "levels": 3}, duration_ms=7_000)),
        (10, StepStarted(step="bgm_track", skill="compose")),
        (10.3, StepCompleted(step="bgm_track", cache_hit=True, cache_key="bgm:7", duration_ms=300)),
        (11, StepStarted(step="tileset", skill="draw")),
        (12, StepStarted(step="player_sprite", skill="draw", input={"frames": 8, "style": "ember"})),
        (12.5, TurnStarted(turn=1, step="player_sprite")),
        (13, ToolCalled(tool="Read", call_id="t1", arguments={"path": "style/ember.md"})),
        (14, ToolReturned(call_id="t1", tool="Read")),
        (15, ToolCalled(tool="render_frames", call_id="t2", arguments={"count": 8})),
        (41, ToolReturned(call_id="t2", tool="render_frames")),
        (42, FileWritten(path="sprites/player.png", bytes=48_112)),
        (43, TurnCompleted(turn=1, step="player_sprite", duration_ms=30_500)),
        (43, spent),
        (44, StepCompleted(step="player_sprite", output={"file": "sprites/player.png"}, duration_ms=32_000)),
        (45, StepCompleted(step="tileset", output={"file": "tiles.png", "tiles": 96}, duration_ms=34_000)),
        (46, StepStarted(step="enemy_sprite", skill="draw")),
        (58, StepFailed(step="enemy_sprite", error=Failure(code="STYLE_DRIFT", message="frame 4 lost its palette"))),
        (60, StepStarted(step="enemy_sprite", attempt=2, skill="draw")),
        (84, StepCompleted(step="enemy_sprite", attempt=2, output={"file": "sprites/enemy.png"}, duration_ms=24_000)),
        (85, TokenUsage(model="claude-haiku-4-5", input_tokens=6_200, output_tokens=900, cost_micros=10_700)),
        (86, StepStarted(step="bundle_game", skill="bundle")),
        (87, TurnStarted(turn=2, step="bundle_game")),
        (88, Message(text="All four parts are there; packing them into one atlas.")),
        (89, ToolCalled(tool="Bash", call_id="t3", arguments={"command": "python -m studio.pack"})),
    ]
    if ends == "failed":
        error = Failure(code="ATLAS_FULL", message="frame blaze_run_07 does not fit into 1024x1024", stack_trace=STACK)
        moments += [
            (120, ToolReturned(call_id="t3", tool="Bash", status="error")),
            (121, TurnCompleted(turn=2, step="bundle_game", duration_ms=34_000, exit_code=1)),
            (122, StepFailed(step="bundle_game", error=error)),
            (123, RunFailed(reason_code="STEP_FAILED", error=error)),
        ]
    elif ends == "completed":
        moments += [
            (120, ToolReturned(call_id="t3", tool="Bash")),
            (121, TurnCompleted(turn=2, step="bundle_game", duration_ms=34_000)),
            (122, StepCompleted(step="bundle_game", output={"file": "game.zip"}, duration_ms=36_000)),
            (123, StepStarted(step="smoke_test", skill="play")),
            (124, TestRunCompleted(framework="pytest", passed=14, duration_ms=8_000)),
            (133, StepCompleted(step="smoke_test", output={"passed": 14}, duration_ms=10_000)),
            (134, StepStarted(step="manifest")),
            (136, StepCompleted(step="manifest", output={"file": "manifest.json"}, duration_ms=2_000)),
            (137, RunCompleted(reason_code="ALL_STEPS_DONE")),
        ]
    elif ends == "rerun":
        moments += [(130, StepMarkedForRerun(step="tileset", reason="the colours changed", also=("bundle_game",)))]
    return await write(
        log,
        name(number),
        ago,
        moments,
        workflow="small-game",
        title={"failed": "Ember Run, level pack", "completed": "Ember Run, first build"}.get(
            ends, "Ember Run, night build"
        ),
        labels={"branch": "main", "team": "arcade"},
        payload={"genre": "platformer", "seed": 7, "levels": ["meadow", "cave", "tower"]},
        context={"engine": "pico", "version": "0.4.1"},
        steps=STEPS,
        limits={"cost": 2.5, "time": 3600},
    )


async def a_sprite_sheet(log: Writable, number: int, *, ago: float, done: int = 3, total: int = 8) -> str:
    moments: list[Moment] = []
    for index in range(done + 1):
        after = 4 + 30.0 * index
        moments.append((after, UnitStarted(unit=f"f{index}", index=index, action="generate")))
        if index < done:
            bad = index == 1
            moments.append((after + 27, (UnitFailed if bad else UnitApproved)(unit=f"f{index}", index=index)))
            moments.append(
                (after + 28, TokenUsage(model="gpt-5", input_tokens=4_000, output_tokens=700, cost_micros=52_500))
            )
    return await write(
        log, name(number), ago, moments,
        workflow="sprite-sheet", title="blaze, idle", unit_name="frame", units_total=total, limits={"cost": 1.0},
        labels={"team": "arcade"},
    )  # fmt: skip


async def a_question(log: Writable, number: int, *, ago: float) -> str:
    moments: list[Moment] = [
        (3, TokenUsage(model="claude-opus-4-1", input_tokens=61_000, output_tokens=9_000, cost_micros=1_590_000)),
        (40, ApprovalRequested(
            approval_id="a1", kind="budget", amount_micros=4_000_000,
            summary="Rewriting the parser needs about 2.40 dollars more than the budget of 1.60. Go on?",
        )),
        (40, RunPaused(waiting_on="approval:a1")),
    ]  # fmt: skip
    return await write(
        log, name(number), ago, moments,
        title="Rewrite the parser without recursion", labels={"team": "core", "branch": "parser"},
    )  # fmt: skip


async def short_runs(log: Writable, first: int, chance: random.Random, *, count: int = 22) -> None:
    """What was done in the last days, most of it well."""
    titles = (
        "Nightly build",
        "Docs, links checked",
        "Import of the price list",
        "Refactor: settings",
        "pytest -q",
        "Release notes",
    )
    models = ("claude-sonnet-4-5", "gpt-5", "claude-haiku-4-5", "gemini-2.5-pro")
    # The oldest first, as they were recorded.
    for number in reversed(range(count)):
        took = chance.uniform(20, 900)
        cost = chance.randrange(4_000, 900_000)
        moments: list[Moment] = [
            (1, TurnStarted(turn=1)),
            (
                took - 2,
                TokenUsage(
                    model=chance.choice(models), input_tokens=cost // 9, output_tokens=cost // 80, cost_micros=cost
                ),
            ),
            (took - 1, TurnCompleted(turn=1, duration_ms=round(took * 1_000))),
        ]
        fate = chance.random()
        if fate < 0.7:
            moments.append((took, RunCompleted(reason_code="EXIT_ZERO")))
        elif fate < 0.85:
            error = Failure(code="EXIT_NONZERO", message="2 of 148 tests failed")
            moments.append((took, RunFailed(reason_code="EXIT_NONZERO", error=error)))
        elif fate < 0.93:
            moments += [(took, CancelRequested(reason="superseded")), (took, RunCancelled(reason="superseded"))]
        else:
            hit = LimitExceeded(limit="cost", threshold=0.5, actual=cost / 1e6)
            moments += [(took, hit), (took, RunStopped(reason_code="COST_LIMIT_EXCEEDED", condition="cost"))]
        await write(
            log, name(first + number), HOUR + number * 0.29 * DAY, moments,
            title=titles[number % len(titles)], workflow=("ci", "docs", None)[number % 3], labels={"branch": "main"},
        )  # fmt: skip


async def an_ordinary_day(log: Writable) -> dict[str, str]:
    """Everything that the pages can show, by name."""
    await short_runs(log, 0x6000, random.Random(7))
    built = await a_game(log, 0x5001, ago=2 * HOUR, ends="completed")
    await write(log, name(0x5008), 90 * MINUTE, [], tenant="atelier", title="Portraits", workflow="portraits")
    failed = await a_game(log, 0x5002, ago=50 * MINUTE, ends="failed")
    asking = await a_question(log, 0x5003, ago=22 * MINUTE)
    sheet = await a_sprite_sheet(log, 0x5004, ago=2 * MINUTE)
    queued = await write(log, name(0x5005), 40, [], driver="queue", title="Ember Run, press kit", workflow="press-kit")
    game = await a_game(log, 0x5006, ago=1.7 * MINUTE)
    return {"built": built, "failed": failed, "asking": asking, "sheet": sheet, "queued": queued, "game": game}
