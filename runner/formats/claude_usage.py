"""Claude's tokens, each counted once: provisional by message, and what the result says beyond that at the end."""

from collections.abc import Iterator
from itertools import islice

from runner.formats.usage import Counters
from runner.formats.values import Object, count_of, micros_of, object_of

MESSAGES_MAX = 10_000  # Message ids whose usage is known to be counted.
MODELS_MAX = 20


class ClaudeUsage:
    def __init__(self) -> None:
        self._messages: dict[str, None] = {}
        self._by_model: dict[str, Counters] = {}
        self._since_result = Counters()
        self._micros: dict[str, int] = {}

    def message(self, message_id: str, model: str, usage: Object) -> Counters:
        """What a message adds: nothing when its id was seen before."""
        if not usage or message_id in self._messages:
            return Counters()
        if message_id:
            self._messages[message_id] = None
            if len(self._messages) > MESSAGES_MAX:
                del self._messages[next(iter(self._messages))]
        spent = _of_message(usage)
        if len(self._by_model) >= MODELS_MAX and model not in self._by_model:
            model = next(iter(self._by_model))
        self._by_model[model] = self._by_model.get(model, Counters()) + spent
        self._since_result += spent
        return spent

    def result(self, found: Object, model: str) -> Iterator[tuple[str, Counters, int | None]]:
        """What each model spent beyond what is counted, with its cost.

        `modelUsage` holds the sums of the whole process, sub-agents included; where it is missing, `usage` holds those
        since the last result. A model may have another name there than its messages had, so what is counted under a
        name that it does not know is taken off the others.
        """
        named = object_of(found.get("modelUsage"))
        if not named:
            spent = _of_message(object_of(found.get("usage"))).beyond(self._since_result)
            cost = self._cost("", found.get("total_cost_usd"))
            if spent or cost:
                self._by_model[model] = self._by_model.get(model, Counters()) + spent
                yield model, spent, cost
        else:
            yield from self._by_name(
                {name[:256]: object_of(given) for name, given in islice(named.items(), MODELS_MAX)}
            )
        self._since_result = Counters()

    def _by_name(self, named: dict[str, Object]) -> Iterator[tuple[str, Counters, int | None]]:
        elsewhere = sum((counted for name, counted in self._by_model.items() if name not in named), start=Counters())
        for name, given in named.items():
            total = _of_model(given)
            counted = self._by_model.get(name, Counters())
            beyond = total.beyond(counted)
            spent = beyond.beyond(elsewhere)
            elsewhere = elsewhere.beyond(beyond)
            cost = self._cost(name, given.get("costUSD"))
            self._by_model[name] = counted.most(total)
            if spent or cost:
                yield name, spent, cost
        # What was counted under other names has found its place, or never will.
        self._by_model = {name: counted for name, counted in self._by_model.items() if name in named}

    def _cost(self, name: str, dollars: object) -> int | None:
        """The sum of the process, so far, less what earlier results said."""
        micros = micros_of(dollars)
        if micros is None:
            return None
        before = self._micros.get(name, 0)
        self._micros[name] = max(micros, before)
        return max(micros - before, 0)


def _of_message(usage: Object) -> Counters:
    read, written = count_of(usage.get("cache_read_input_tokens")), count_of(usage.get("cache_creation_input_tokens"))
    return Counters(
        input_tokens=count_of(usage.get("input_tokens")) + read + written,
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=count_of(usage.get("output_tokens")),
    )


def _of_model(given: Object) -> Counters:
    read, written = count_of(given.get("cacheReadInputTokens")), count_of(given.get("cacheCreationInputTokens"))
    return Counters(
        input_tokens=count_of(given.get("inputTokens")) + read + written,
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=count_of(given.get("outputTokens")),
    )
