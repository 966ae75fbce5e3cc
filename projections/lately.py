"""Answers for who must not wait: what was last said, while it is asked for anew behind him."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

FRESH_SECONDS = 1.0
OLD_SECONDS = 10.0  # From then on the answer is waited for.
KEPT_MAX = 256


class Lately:
    def __init__(self, now_seconds: Callable[[], float]) -> None:
        self._now_seconds = now_seconds
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._asking: dict[Hashable, asyncio.Task[Any]] = {}

    async def answer(self, key: Hashable, ask: Callable[[], Awaitable[Any]]) -> Any:
        """What `ask` answered less than `OLD_SECONDS` ago, where it has; equal keys are the same question."""
        asked_at, answer = self._kept.get(key, (-math.inf, None))
        age_seconds = self._now_seconds() - asked_at
        if age_seconds >= OLD_SECONDS:
            return await self._ask(key, ask)
        if age_seconds >= FRESH_SECONDS and key not in self._asking:
            self._asking[key] = asyncio.create_task(self._ask_behind(key, ask), name="ask anew")
        return answer

    async def close(self) -> None:
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _ask_behind(self, key: Hashable, ask: Callable[[], Awaitable[Any]]) -> None:
        try:
            await self._ask(key, ask)
        except Exception:
            # Whoever asks next waits for the answer, and is told.
            self._kept.pop(key, None)
        finally:
            del self._asking[key]

    async def _ask(self, key: Hashable, ask: Callable[[], Awaitable[Any]]) -> Any:
        asked_at = self._now_seconds()
        answer = await ask()
        self._kept.pop(key, None)
        self._kept[key] = asked_at, answer
        if len(self._kept) > KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        return answer
