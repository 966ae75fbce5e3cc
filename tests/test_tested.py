"""The closing lines of test runners, as they print them, are counted; words that only look like them are not."""

import pytest

from runfold.events import CommandExecuted, TestRunCompleted
from runner.formats.choosing import parser_of
from runner.formats.tested import MARKS, has_marks, results_in
from runner.turns.listener import Listener

# As printed by pytest 9.2, unittest 3.11, jest 30, vitest 4, go 1.27 and cargo 1.8x over the same kinds of tests.
PRINTED = [
    (
        "ERROR test_a.py::test_err - RuntimeError\n"
        "==== 1 failed, 1 passed, 1 skipped, 1 xfailed, 1 xpassed, 1 error in 12.70s ====",
        ("pytest", 2, 2, 2, 12_700),
    ),
    ("1 failed, 1 passed, 1 skipped, 1 xfailed, 1 xpassed, 1 error in 2.70s", ("pytest", 2, 2, 2, 2_700)),
    (
        "\x1b[31m==== \x1b[31m\x1b[1m1 failed\x1b[0m, \x1b[32m1 passed\x1b[0m, \x1b[33m1 skipped\x1b[0m, "
        "\x1b[31m\x1b[1m1 error\x1b[0m\x1b[31m in 3.54s\x1b[0m\x1b[31m =====\x1b[0m",
        ("pytest", 1, 2, 1, 3_540),
    ),
    ("======================= 1 passed, 5 deselected in 3.25s ========================", ("pytest", 1, 0, 0, 3_250)),
    ("=============================== 1 error in 4.27s ===============================", ("pytest", 0, 1, 0, 4_270)),
    ("============================ 6 deselected in 4.95s =============================", ("pytest", 0, 0, 0, 4_950)),
    ("===== 5 passed in 61.00s (0:01:01) =====", ("pytest", 5, 0, 0, 61_000)),
    ("3 passed, 1 warning in 0.12s", ("pytest", 3, 0, 0, 120)),
    (
        "Ran 8 tests in 0.003s\n\n"
        "FAILED (failures=2, errors=1, skipped=1, expected failures=1, unexpected successes=1)",
        ("unittest", 2, 4, 2, 3),
    ),
    ("Ran 2 tests in 0.000s\n\nOK (skipped=1)", ("unittest", 1, 0, 1, 0)),
    ("Ran 1 test in 0.012s\n\nOK", ("unittest", 1, 0, 0, 12)),
    (
        "Test Suites: 1 failed, 1 total\nTests:       1 failed, 1 skipped, 1 todo, 1 passed, 4 total",
        ("jest", 1, 1, 2, None),
    ),
    (
        "\x1b[1mTests:       \x1b[22m\x1b[1m\x1b[31m1 failed\x1b[39m\x1b[22m, \x1b[1m\x1b[33m1 skipped\x1b[39m\x1b[22m,"
        " \x1b[1m\x1b[35m1 todo\x1b[39m\x1b[22m, \x1b[1m\x1b[32m1 passed\x1b[39m\x1b[22m, 4 total",
        ("jest", 1, 1, 2, None),
    ),
    (
        " Test Files  1 failed (1)\n      Tests  1 failed | 1 passed | 1 expected fail | 1 skipped | 1 todo (5)",
        ("vitest", 1, 1, 3, None),
    ),
    (
        "\x1b[2m      Tests \x1b[22m \x1b[1m\x1b[31m1 failed\x1b[39m\x1b[22m\x1b[2m | \x1b[22m\x1b[1m\x1b[32m1 passed"
        "\x1b[39m\x1b[22m\x1b[2m | \x1b[22m\x1b[36m1 expected fail\x1b[39m\x1b[90m (3)\x1b[39m",
        ("vitest", 1, 1, 1, None),
    ),
    (
        "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.16s\n"
        "   Doc-tests rs\n\nrunning 1 test\ntest src/lib.rs - f (line 1) ... ok\n\n"
        "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ("cargo test", 2, 1, 1, 160),
    ),
    (
        "test result: \x1b[31mFAILED\x1b(B\x1b[m. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; "
        "finished in 0.20s",
        ("cargo test", 1, 1, 1, 200),
    ),
    (
        "--- FAIL: TestSub (0.00s)\n    --- FAIL: TestSub/two (0.00s)\nFAIL\nFAIL\tex.org/x/a\t0.003s\n"
        "ok  \tex.org/x/b\t0.062s\nok  \tex.org/x/e\t(cached)\n?   \tex.org/x/c\t[no test files]\n"
        "FAIL\tex.org/x/d [setup failed]\nFAIL",
        ("go test", 2, 2, 0, 65),
    ),
    (
        "=== RUN   TestOk\n--- PASS: TestOk (0.00s)\n=== RUN   TestSub\n=== RUN   TestSub/one\n=== RUN   TestSub/two\n"
        "--- FAIL: TestSub (0.00s)\n    --- PASS: TestSub/one (0.00s)\n    --- FAIL: TestSub/two (0.00s)\n"
        "=== RUN   TestSkip\n    a_test.go:5: x\n--- SKIP: TestSkip (0.00s)\nFAIL\nFAIL\tex.org/x/a\t0.003s\nFAIL",
        ("go test", 2, 2, 1, 3),
    ),
    ("=== RUN   TestA\n--- FAIL: TestA (0.00s)\nFAIL\nFAIL\tex.org/x/a\t0.003s\nFAIL", ("go test", 0, 1, 0, 3)),
    ("ok  \tex.org/x/b\t0.004s\tcoverage: [no statements]", ("go test", 1, 0, 0, 4)),
]


@pytest.mark.parametrize(("text", "counts"), PRINTED)
def test_closing_lines_of_test_runners_are_counted(text: str, counts: tuple[str, int, int, int, int | None]) -> None:
    found = results_in(text)

    assert found is not None
    assert (found.framework, found.passed, found.failed, found.skipped, found.duration_ms) == counts


@pytest.mark.parametrize(("text", "counts"), PRINTED)
def test_a_closing_line_is_found_among_much_plain_output(text: str, counts: tuple[str, int, int, int, int]) -> None:
    listener = Listener(format_name="plain")
    found: list[TestRunCompleted] = []

    for line in ["hello"] * 100 + text.split("\n"):
        if listener.wants(line.encode(), "stdout"):
            found += (it for it in listener.line(line.encode(), "stdout") if isinstance(it, TestRunCompleted))
    found += (it for it in listener.finish() if isinstance(it, TestRunCompleted))

    assert [(it.framework, it.passed, it.failed, it.skipped, it.duration_ms) for it in found] == [counts]
    assert not has_marks(b"hello", MARKS)


@pytest.mark.parametrize(
    "text", ["I passed 3 tests in 2s", "OK", "FAILED", "ok 3 passed", "Tests are fun", "=== 3 apples ===", "3 errors"]
)
def test_words_that_only_look_like_results_are_not_counted(text: str) -> None:
    assert results_in(text) is None


def test_an_agents_command_is_counted_by_all_that_it_printed_and_not_by_its_tail() -> None:
    line = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s"
    output = f"{line}\\n{'x' * 5_000}\\n{line}"
    item = f'"type":"command_execution","command":"cargo test","aggregated_output":"{output}","exit_code":0'

    executed, counted = (
        event
        for event in parser_of("codex").line(f'{{"type":"item.completed","item":{{{item}}}}}')
        if isinstance(event, CommandExecuted | TestRunCompleted)
    )

    assert isinstance(executed, CommandExecuted)
    assert isinstance(counted, TestRunCompleted)
    assert (counted.command, counted.passed, counted.failed) == ("cargo test", 6, 0)
