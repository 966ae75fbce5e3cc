"""A run as text for people: the Markdown report, the chain of causes to its status, and its graph for Mermaid."""

import re
from collections.abc import Sequence

import msgspec

from runfold.envelope import time_text
from runfold.events import StepSpec
from runfold.graph import find_step
from runfold.limits import measure, words
from runfold.reasons import find_reason
from runfold.report import duration_us, report, usd
from runfold.state import Run
from runfold.step_states import PENDING, StepState

BAR_CELLS = 32
MERMAID_STEPS_MAX = 200  # A larger picture helps nobody.

_SECTIONS = ("failed", "needs_rerun", "running", "completed", "skipped", "cancelled", "pending")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")


def markdown_report(run: Run) -> str:
    """Summary, progress, steps by state with what to do, costs by step, the graph."""
    parts = [f"# {_text(run.title or run.workflow or run.run_id)}", _summary(run), _progress(run), _limits(run)]
    parts.append(_costs_by_model(run))
    if run.steps or run.step_states:
        parts += [_sections(run), _costs(run)]
    parts.append("## Why\n\n" + "\n".join(f"- {_text(line)}" for line in why(run)))
    if run.steps:
        parts.append(f"## Graph\n\n```mermaid\n{mermaid(run)}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The causes of the present status, the nearest first."""

    run_id: str
    status: str | None
    reason_code: str
    causes: tuple[str, ...]


def explain(run: Run) -> Why:
    return Why(run_id=run.run_id, status=run.status, reason_code=run.reason_code, causes=why(run))


def why(run: Run) -> tuple[str, ...]:
    """The causes of the present status, the nearest first; the last sentence says what to do."""
    if run.status is None:
        return ("nothing is known of this run",)
    lines = [f"The run is {run.status}: {_end(run.message)}"]
    if run.error is not None and run.error.message not in ("", run.message):
        lines.append(f"The error was {run.error.code or 'unnamed'}: {_end(run.error.message)}")
    if run.waiting_on:
        kind, _, name = run.waiting_on.partition(":")
        asked = run.approvals.get(name) if kind == "approval" else None
        lines.append(f"It waits for {kind} {name}".rstrip() + (f": {_end(asked.summary)}" if asked else "."))
    for name, approval in run.approvals.items():
        if approval.status in ("denied", "expired"):
            comment = f": {approval.comment}" if approval.comment else ""
            lines.append(_end(f"Approval {name} ({approval.summary}) was {approval.status}{comment}"))
    for name, state in list(_states(run, "failed"))[:5]:
        message = state.error.message or state.error.code if state.error else ""
        lines.append(_end(f"Step {name} failed at attempt {state.attempt}" + (f": {message}" if message else "")))
    marked = [(name, state) for name, state in _states(run, "needs_rerun") if state.because_of is None]
    for name, state in marked[:5]:
        after = sum(1 for _, it in _states(run, "needs_rerun") if it.because_of == name)
        reason = f": {state.reason}" if state.reason else ""
        lines.append(_end(f"Step {name} has to run again{reason}, and with it {after} that rest on it"))
    if run.recoveries:
        lines.append(f"Its worker was lost {run.recoveries} times.")
    reason_known = find_reason(run.reason_code)
    if run.status == "stopped" and run.is_refused:
        lines.append(f"Next: `runfold retry {run.run_id}` asks again.")
    elif reason_known is not None and reason_known.next_step:
        lines.append(_end(f"Next: {reason_known.next_step.replace('RUN', run.run_id)}"))
    return tuple(lines)


def mermaid(run: Run) -> str:
    """The dependency graph with the states of its steps; ids are numbered, so that no name can break the picture."""
    steps = run.steps[:MERMAID_STEPS_MAX]
    number = {spec.id: f"s{index}" for index, spec in enumerate(steps)}
    lines = ["graph TD"]
    for spec in steps:
        state = run.step_states.get(spec.id, PENDING)
        lines.append(f'  {number[spec.id]}["{_label(spec.title or spec.id)}"]:::{state.status}')
    lines += [f"  {number[need]} --> {number[spec.id]}" for spec in steps for need in spec.needs if need in number]
    if len(run.steps) > len(steps):
        lines.append(f'  more["and {len(run.steps) - len(steps)} more steps"]')
    lines += [
        "  classDef completed fill:#d1f0d6,stroke:#2e7d32",
        "  classDef running fill:#d6e6ff,stroke:#1565c0",
        "  classDef failed fill:#ffd9d6,stroke:#c62828",
        "  classDef needs_rerun fill:#fff1c9,stroke:#b26a00",
    ]
    return "\n".join(lines)


def duration_text(ms: int | None) -> str:
    """`2h 5m`, `4m 32s`, `1.2s`: what people say of a duration."""
    if ms is None:
        return "–"
    if ms < 60_000:
        return f"{ms / 1_000:.1f}s"
    minutes, seconds = divmod(ms // 1_000, 60)
    return f"{minutes}m {seconds}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60}m"


def _summary(run: Run) -> str:
    made = report(run)
    duration = duration_us(run)
    rows = [
        ("Run", f"`{run.run_id}`"),
        ("Status", f"{made.status} ({made.reason_code})"),
        ("Says", _text(made.message)),
        ("Started", time_text(run.started_at_us) if run.started_at_us is not None else "–"),
        ("Duration", duration_text(None if duration is None else duration // 1_000)),
        ("Turns", str(run.turns)),
        ("Tokens", f"{run.tokens.total:,}"),
        ("Cost", _cost(run.cost_micros)),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _progress(run: Run) -> str:
    if run.steps:
        done = sum(1 for _ in _states(run, "completed")) + sum(1 for _ in _states(run, "skipped"))
        return _bar(done, len(run.steps), "steps")
    if run.units_total:
        return _bar(run.units.approved, run.units_total, f"{run.unit_name}s")
    return ""


def _bar(done: int, total: int, word: str) -> str:
    filled = min(BAR_CELLS, BAR_CELLS * done // total)
    return f"`[{'█' * filled}{'░' * (BAR_CELLS - filled)}]` {done} of {total} {_text(word)} ({100 * done / total:.1f}%)"


def _limits(run: Run) -> str:
    measured = [it for it in measure(run, now_us=run.updated_at_us) if not it.reason]
    if not measured:
        return ""
    rows = [
        f"| {it.limit.limit} | {words(it.limit.limit, it.actual, it.limit.threshold)} | {it.limit.on_exceed} |"
        for it in measured
    ]
    return "## Limits\n\n| limit | used | then |\n|---|---|---|\n" + "\n".join(rows)


def _sections(run: Run) -> str:
    parts: list[str] = ["## Steps"]
    for status in _SECTIONS:
        states = list(_states(run, status))
        if states:
            lines = [f"- {_step_line(run, name, state)}" for name, state in states]
            parts.append(f"### {status.replace('_', ' ').capitalize()} ({len(states)})\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _step_line(run: Run, name: str, state: StepState) -> str:
    line = f"**{_text(name)}**"
    if state.duration_ms is not None:
        line += f", {duration_text(state.duration_ms)}"
    if state.attempt > 1:
        line += f", attempt {state.attempt}"
    if state.cache_hit:
        line += ", from the cache"
    if state.status == "needs_rerun":
        cause = f"because {_text(state.because_of)} changed" if state.because_of else "asked for"
        line += f", {cause}" + (f": {_text(state.reason)}" if state.reason else "")
    if state.status == "failed" and state.error is not None:
        line += (
            f": {_text(state.error.message or state.error.code)}. `runfold step start {run.run_id} {name}` tries again"
        )
    if state.status == "pending":
        missing = _missing(run, find_step(run.steps, name))
        line += f", waits for {_text(', '.join(missing))}" if missing else ", can start"
    return line


def _costs(run: Run) -> str:
    rows = [(name, state) for name, state in run.step_states.items() if state.tokens or state.cost_micros]
    if not rows:
        return ""
    rows.sort(key=lambda row: row[1].cost_micros or 0, reverse=True)
    lines = [f"| {_text(name)} | {state.tokens:,} | {_cost(state.cost_micros)} |" for name, state in rows]
    return "## Costs by step\n\n| step | tokens | cost |\n|---|---|---|\n" + "\n".join(lines)


def _costs_by_model(run: Run) -> str:
    if not run.models:
        return ""
    rows = sorted(run.models.items(), key=lambda row: row[1].cost_micros or 0, reverse=True)
    lines = [
        f"| {_text(name) if name else 'not named'} | {used.tokens:,} | {_cost(used.cost_micros)}"
        + (f" and {used.unpriced} reports of unknown price |" if used.unpriced and used.cost_micros else " |")
        for name, used in rows
    ]
    return "## Costs by model\n\n| model | tokens | cost |\n|---|---|---|\n" + "\n".join(lines)


def _missing(run: Run, spec: StepSpec | None) -> Sequence[str]:
    states = run.step_states
    needs = spec.needs if spec is not None else ()
    return [need for need in needs if states.get(need, PENDING).status not in ("completed", "skipped")]


def _states(run: Run, status: str) -> list[tuple[str, StepState]]:
    names = [spec.id for spec in run.steps] or list(run.step_states)
    both = [(name, run.step_states.get(name, PENDING)) for name in names]
    return [(name, state) for name, state in both if state.status == status]


def _cost(micros: int | None) -> str:
    dollars = usd(micros)
    return "unknown" if dollars is None else f"${dollars:.2f}"


def _text(text: str) -> str:
    """Text that somebody else wrote, as text: it neither formats nor breaks out of its line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _label(text: str) -> str:
    return "".join(sign if sign.isalnum() or sign in " -_.:/" else f"#{ord(sign)};" for sign in " ".join(text.split()))


def _end(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
