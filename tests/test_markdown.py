"""A run as text says what happened, why, and what to do; what others wrote stays text."""

from runfold import commands as c
from runfold import events as e
from runfold.markdown import duration_text, markdown_report, mermaid, why
from tests.given import after, done, graph, observe, reported

STEPS = graph("a", "b: a", "c: b")


def test_a_report_tells_states_durations_rerun_reasons_costs_and_the_graph() -> None:
    run = after(
        reported(title="nba", steps=STEPS, limits={"cost": 1}), *done("a", "b"), c.StartStep(step="c"),
        observe(e.TokenUsage(input_tokens=1_500, cost_micros=250_000, step="c")),
        c.FailStep(step="c", error=e.Failure(message="no data")), c.MarkRerun(step="a", reason="new source"),
    )  # fmt: skip

    text = markdown_report(run)

    for part in ("# nba", "### Failed (1)", "no data", "### Needs rerun (2)", "asked for: new source",
                 "because a changed", "| c | 1,500 | $0.25 |", "| cost | $0.25 of $1.00 | stop |",
                 "0 of 3 steps (0.0%)", "```mermaid", "s0 --> s1"):  # fmt: skip
        assert part in text, part


def test_what_others_wrote_cannot_format_or_break_out() -> None:
    run = after(reported(title="<script>*x*\n# no", steps=(e.StepSpec(id='a"]; click a "javascript:x"'),)))

    text = markdown_report(run)

    assert "<script>" not in text
    assert "\n# no" not in text
    assert '"]; click' not in mermaid(run)


def test_why_is_the_chain_of_causes_and_ends_with_what_to_do() -> None:
    run = after(reported(limits={"cost": "1:ask"}), observe(e.TokenUsage(input_tokens=1, cost_micros=1_200_000)),
                c.Deny(approval_id="a1", comment="too dear"))  # fmt: skip

    lines = why(run)

    assert lines[0] == "The run is stopped: too dear."
    assert any("Approval a1" in line and "was denied: too dear" in line for line in lines)
    assert lines[-1].startswith("Next: `runfold resume r_x`")


def test_why_of_a_waiting_run_says_for_what() -> None:
    run = after(reported(), c.RequestApproval(summary="Deploy now?"))

    assert "It waits for approval a1: Deploy now?" in why(run)


def test_durations_are_said_as_people_say_them() -> None:
    assert [duration_text(ms) for ms in (None, 1_234, 272_000, 7_500_000)] == ["–", "1.2s", "4m 32s", "2h 5m"]
