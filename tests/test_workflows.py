"""A `runfold.toml` is read whole, or refused with the file, the key and the line."""

from typing import Any

import pytest

from runfold.errors import BadRequest, InvalidSetting, NotFound
from runfold.workflows import Asked, CompletionRules, Workflow, find_workflow, order_of, parse_workflows

GOOD = """
[settings]
port = 9000

[workflow.agent]
command = ["codex", "exec", "--json", "-m", "{model}", "-"]
prompt = "Do {task} in turn {turn}"
format = "codex"
model = "gpt-5"
max_turns = 5
environment = ["OPENAI_API_KEY"]
watch_logs = ["work.log"]
on_lost = "resume"

[workflow.agent.parameters.task]
choices = ["tests", "docs"]

[workflow.agent.parameters.depth]
type = "integer"
default = 2

[workflow.agent.completion]
pattern = "ALL DONE"
stop_file = "STOP"

[workflow.agent.limits]
cost_usd = 2.5
"""


def agent() -> Workflow:
    return parse_workflows(GOOD)["agent"]


def test_a_whole_workflow_is_read() -> None:
    workflow = agent()

    assert (workflow.name, workflow.max_turns, workflow.on_lost) == ("agent", 5, "resume")
    assert workflow.completion == CompletionRules(pattern="ALL DONE", stop_file="STOP")


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ('[workflow.a]\ncommand = "codex"\n', "workflow.a.command", 2),
        ('[workflow.a]\ncommand = ["x"]\n\nmax_turn = 3\n', "workflow.a.max_turn", 4),
        ('[workflow.a]\ncommand = ["x"]\nmax_turns = 0\n', "workflow.a.max_turns", 3),
        ('[workflow.a]\ncommand = ["x"]\nformat = "cobol"\n', "workflow.a.format", 3),
        ('[workflow.a]\ncommand = ["x", "{nope}"]\n', "workflow.a.command", 2),
        ('[workflow.a]\ncommand = []\n', "workflow.a.command", 2),
        ('[workflow.a]\nmax_turns = 1\n', "workflow.a.command", 1),
        ('[workflow.a]\ncommand = ["x"]\nprompt = "p"\nprompt_file = "f"\n', "workflow.a.prompt_file", 4),
        ('[workflow.a]\ncommand = ["x"]\ncompletion.exit_code = "0"\n', "workflow.a.completion.exit_code", 3),
        ('[workflow.a]\ncommand = ["x"]\n[workflow.a.parameters.n]\ntype = "int"\n', "workflow.a.parameters.n.type", 4),
        ('[workflow.a]\ncommand = ["x"]\non_lost = "hope"\n', "workflow.a.on_lost", 3),
        ('[workflow."a b"]\ncommand = ["x"]\n', "workflow.a b", 1),
    ],
)  # fmt: skip
def test_an_error_names_the_file_the_key_and_the_line(text: str, key: str, line: int) -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_workflows(text, file="some/runfold.toml")

    assert f"`some/runfold.toml` line {line}: `{key}`" in caught.value.message


def test_text_that_is_no_toml_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidSetting, match="line 3"):
        parse_workflows("[workflow.a]\ncommand = [\n= 3", file="runfold.toml")


def test_an_order_can_be_carried_out_from_the_log_alone() -> None:
    order = order_of(agent(), Asked(payload={"task": "docs"}, title="T", limits={"turns": 9}), folder="/w")

    assert order.command == ("codex", "exec", "--json", "-m", "gpt-5", "-")
    assert (order.prompt, order.cwd, order.title) == ("Do docs in turn {turn}", "/w", "T")
    assert (order.workflow, order.driver, order.format, order.max_turns) == ("agent", "queue", "codex", 5)
    assert order.completion == {"pattern": "ALL DONE", "stop_file": "STOP"}
    assert order.limits == {"cost_usd": 2.5, "turns": 9}
    assert order.on_lost == "resume"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (None, "needs the parameter `task`"),
        ({"task": "war"}, "is not one of tests, docs"),
        ({"task": 3}, "is not a string"),
        ({"task": "docs", "depth": "2"}, "is not an integer"),
        ({"task": "docs", "depth": True}, "is not an integer"),
        ([1], "is not an object"),
    ],
)
def test_a_parameter_that_is_not_what_it_should_be_is_refused(payload: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        order_of(agent(), Asked(payload=payload), folder="/w")


def test_a_value_cannot_become_an_option_of_the_command() -> None:
    workflow = parse_workflows('[workflow.a]\ncommand = ["x", "{n}"]\n[workflow.a.parameters.n]\n')["a"]

    with pytest.raises(BadRequest, match="begins with"):
        order_of(workflow, Asked(payload={"n": "--yolo"}), folder="/w")


def test_a_value_is_never_filled_in_twice() -> None:
    text = '[workflow.a]\ncommand = ["x", "{a}"]\n[workflow.a.parameters.a]\n[workflow.a.parameters.b]\n'

    order = order_of(parse_workflows(text)["a"], Asked(payload={"a": "{b}", "b": "secret"}), folder="/w")

    assert order.command == ("x", "{b}")


def test_an_unknown_workflow_is_answered_with_the_known_ones() -> None:
    with pytest.raises(NotFound) as caught:
        find_workflow(parse_workflows(GOOD), "agnt")

    assert "agent" in caught.value.hint
