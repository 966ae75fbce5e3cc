"""`runfold emit` prints what a run takes, and tells at once of what it would not."""

import os
import subprocess
import sys

import msgspec
import pytest

from runfold import events as e
from runfold.emit import main, sentinel_line
from runfold.observing import CHILD_TYPES
from runfold.telemetry import parse_line

COMMAND = [sys.executable, "-m", "runfold.emit"]
VALUES = [
    "a text", "", "12", "-1", "0", "1.0", "0.5", "true", "null", "NaN", "[]", "[1]", '["a"]', "{}", '{"code": "1"}',
    '"12"', "1000000000000", "1000000000001", "-1000000000001", "1e400", "delta", "provisional", "9" * 30,
    '{"type": "agent", "code": "X"}', '{"type": "x"}', '{"message": 1}', '{"retryable": true}', '{"message": null}',
]  # fmt: skip


def emit(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", sorted(CHILD_TYPES))
def test_emit_prints_only_what_a_run_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    fields = [field for field in msgspec.structs.fields(e.EVENT_TYPES[name]) if field.name != "source"]
    required = {field.name: "a text" if field.type is str else "3" for field in fields if field.required}
    for field in fields:
        printed = 0
        for value in VALUES:
            given = {**required, field.name: value}

            code, out, err = emit(capsys, name, *(f"{key}={text}" for key, text in given.items()))

            assert (code == 0) == bool(out) == (not err), value
            assert not out or isinstance(parse_line(out), tuple), value
            printed += bool(out)
        assert printed, field.name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["token_usage", "cost=0.5"], ["`token_usage` has no field `cost`", "cost_micros", "cost_usd"]),
        (["file_written", "path=a", "byte=1"], ["`file_written` has no field `byte`", "path, bytes, kind, sha256"]),
        (["file_written", "path=a", "source=x"], ["`file_written` has no field `source`"]),
        (["file_written", "path=a", "cost_usd=1"], ["`file_written` has no field `cost_usd`"]),
        (["file_written", "path=a", "bytes=many"], ["Expected `int | null`, got `str` - at `$.bytes`", "path, bytes"]),
        (["token_usage", "semantics=x"], ["Invalid enum value 'x' - at `$.semantics`"]),
        (["token_usage", "cost_usd=free"], ["`cost_usd` is not a number", "cost_usd=0.5"]),
        (["token_usage", "cost_usd=-1"], ["Expected `int` >= 0 - at `$.cost_micros`"]),
        (["token_usage", "cost_usd=true"], ["`cost_usd` is not a number"]),
        (["token_usage", "cost_usd=1e308"], ["`cost_usd` is not a number"]),
        (["token_usage", "cost_usd=1e300"], ["no run takes this `token_usage`"]),
        (["token_usage", "cost_usd=1" + 400 * "0"], ["error"]),
        (["token_usage", "cost_usd=1", "cost_micros=1"], ["`cost_usd` and `cost_micros` are the same"]),
        (["file_written", "bytes=1"], ["missing required field `path`", "path, bytes, kind, sha256"]),
        (["file_written", "path=a\udcff"], ["no run takes this `file_written`"]),
        (["run_completed", "reason_code=EXIT_ZERO"], ["`run_completed` is not a program's to say"]),
        (["Frame drawn", "n=1"], ["not a snake_case name", "file_written"]),
        (["x" * 65], ["not a snake_case name"]),
    ],
)
def test_a_slip_is_told_at_once_with_what_to_write(
    arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = emit(capsys, *arguments)

    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "\n\nhint: " in err
    assert [text for text in said if text not in err] == []


@pytest.mark.parametrize(("dollars", "kept"), [("0.5", 500_000), ("2", 2_000_000), ("0.0000015", 2), ("null", None)])
def test_a_cost_may_be_given_in_dollars(dollars: str, kept: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = emit(capsys, "token_usage", "model=m", f"cost_usd={dollars}")

    assert parse_line(out) == (e.TokenUsage(model="m", cost_micros=kept, source="sentinel"),)


def test_a_text_that_looks_like_a_number_stays_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = emit(capsys, "file_written", "path=12", "bytes=12", "kind=null")

    assert parse_line(out) == (e.FileWritten(path="12", bytes=12, source="sentinel"),)


def test_a_type_of_a_programs_own_takes_any_field(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = emit(capsys, "frame_drawn", "n=3", "cost_usd=0.5", "text=12")

    data = {"n": 3, "cost_usd": 0.5, "text": 12}
    assert parse_line(out) == (e.Telemetry(name="frame_drawn", data=data, source="sentinel"),)


def test_emit_fails_no_script_whose_output_nobody_reads() -> None:
    reading, writing = os.pipe()
    os.close(reading)

    into_nothing = subprocess.run([*COMMAND, "units_planned", "total=3"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *COMMAND, "units_planned", "total=3"], capture_output=True)

    assert [(done.returncode, done.stderr) for done in (into_nothing, closed)] == [(0, b""), (0, b"")]


def test_emit_prints_a_line_that_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["file_written", "path=ä b.py", "bytes=12"])

    printed = capsys.readouterr().out
    assert code == 0
    assert printed.isascii()
    assert parse_line(printed) == (e.FileWritten(path="ä b.py", bytes=12, source="sentinel"),)


def test_emit_takes_json_where_it_is_json_and_text_where_not(capsys: pytest.CaptureFixture[str]) -> None:
    main(["shape", "a=[1]", "b=NaN", "c=x=y", "d="])

    assert capsys.readouterr().out == sentinel_line("shape", {"a": [1], "b": "NaN", "c": "x=y", "d": ""})


@pytest.mark.parametrize("arguments", [[], ["x", "novalue"], ["x", "=1"], ["x", "type=y"], ["x", "a=" + "b" * 70_000]])
def test_emit_says_what_is_wrong_and_prints_no_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().out == ""


def test_emit_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runfold.emit", "units_planned", "total=3"], capture_output=True, text=True, check=True
    )

    assert parse_line(done.stdout) == (e.UnitsPlanned(total=3, source="sentinel"),)
