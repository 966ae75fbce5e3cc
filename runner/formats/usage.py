"""Counters of tokens, alike for every agent: input includes what the cache gave, output includes reasoning."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from runfold.events import Json, TokenUsage

Combine: TypeAlias = Callable[[int, int], int]


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __bool__(self) -> bool:
        return any(msgspec.structs.astuple(self))

    def __add__(self, other: "Counters") -> "Counters":
        return self._each(other, lambda mine, theirs: mine + theirs)

    def beyond(self, other: "Counters") -> "Counters":
        """What these have more than the others; never negative."""
        return self._each(other, lambda mine, theirs: max(mine - theirs, 0))

    def most(self, other: "Counters") -> "Counters":
        """The higher of each, so that a counter that falls back is never counted again."""
        return self._each(other, max)

    def told(self, usage: TokenUsage) -> TokenUsage:
        """The event with these counters."""
        return msgspec.structs.replace(usage, **msgspec.structs.asdict(self))

    def _each(self, other: "Counters", combine: Combine) -> "Counters":
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return Counters(
            **dict(zip(self.__struct_fields__, (combine(mine, theirs) for mine, theirs in pairs), strict=True))
        )


def counted_of(usages: Iterable[TokenUsage]) -> dict[str, Json]:
    """What `Parser.counted` was after these events: the last raw counters of each thread."""
    return {usage.session: usage.cumulative for usage in usages if usage.session and usage.cumulative is not None}
