"""Whose the tokens of a run are: the step that a report of usage belongs to, told from what is open in the run."""

import msgspec

from runfold.events import (
    Event,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunQueued,
    RunStopped,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepReset,
    StepSkipped,
    StepStarted,
    TokenUsage,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Unknown,
)

GOES_ON = frozenset(
    {"run_started", "run_requeued", "run_resumed", "run_paused", "pause_requested", "cancel_requested",
     "limit_exceeded"}
)  # fmt: skip
"""After these a run does not rest, whatever it did before."""
OPENING = GOES_ON | {
    "run_queued", "turn_started", "turn_completed", "turn_failed", "turn_cancelled", "step_started", "step_completed",
    "step_failed", "step_skipped", "step_cancelled", "step_reset", "run_completed", "run_failed", "run_cancelled",
    "run_stopped",
}  # fmt: skip


class Spender(msgspec.Struct):
    """Turn → step of the open turns, the open steps, and whose the run is."""

    turns: dict[int, str | None] = {}
    steps: list[str] = []
    rests: bool = False
    workflow: str = ""
    imported: bool = False

    def step_of(self, usage: TokenUsage) -> str:
        """The step that it says, or the only one that can have spent it; empty where nobody can tell."""
        if usage.step:
            return usage.step
        if len(self.turns) == 1:
            return next(iter(self.turns.values())) or ""
        return self.steps[0] if len(self.steps) == 1 and not self.turns else ""

    def note(self, type_name: str, event: Event | Unknown | None) -> None:
        """Take what opens, closes or names something; of types that are in OPENING."""
        match event:
            case RunQueued():
                self.rests = False
                self.workflow, self.imported = event.workflow or "", event.driver == "imported"
            case TurnStarted():
                self.turns.pop(event.turn, None)
                if not self.rests:
                    self.turns[event.turn] = event.step
            case TurnCompleted() | TurnFailed() | TurnCancelled():
                self.turns.pop(event.turn, None)
            case StepStarted():
                if not self.rests:
                    self.steps = [*(step for step in self.steps if step != event.step), event.step]
            case StepCompleted() | StepFailed() | StepSkipped() | StepCancelled():
                self.steps = [step for step in self.steps if step != event.step]
            case StepReset():
                self.steps = [step for step in self.steps if step != event.step and step not in event.also]
            case RunCompleted() | RunFailed() | RunCancelled() | RunStopped():
                self.rests = True
            case _ if type_name in GOES_ON:
                self.rests = False
            case _:
                pass


def numbers_of(usage: TokenUsage) -> tuple[int, ...]:
    """Input, cache read, cache write, output and reasoning tokens, cost, and reports with and without a price."""
    spent = usage.input_tokens + usage.output_tokens > 0 and usage.semantics == "delta"
    return (
        usage.input_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.cost_micros or 0,
        int(usage.cost_micros is not None),
        int(spent and usage.cost_micros is None),
    )
