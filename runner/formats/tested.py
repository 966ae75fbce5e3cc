"""The closing lines of test runners, as counts: pytest, unittest, jest, vitest, go test, cargo test.

A test that was expected to fail, and did, counts as skipped; one that should have failed and did not is what its runner
makes of it.
"""

import re
from collections.abc import Iterable

from runfold.events import TestRunCompleted

LINE_CHARACTERS_MAX = 1_000
MARKS = (
    b" passed",
    b" failed",
    b" skipped",
    b" error",
    b" deselected",
    b" xfailed",
    b" xpassed",
    b"=== RUN",
    b"Ran ",
    b"Tests",
    b"ok  \t",
    b"FAIL\t",
    b"--- ",
    b"test result: ",
    b"OK",
    b"FAILED",
)
_COLOUR = re.compile(r"\x1b(?:\[[0-9;]*m|\(B)")
_PYTEST = re.compile(r"^=+ .*\b\d+ (?:passed|failed|errors?|skipped|deselected|xfailed|xpassed).* in [\d.]+s.*=+$")
_PYTEST_QUIET = re.compile(r"^\d+ (?:passed|failed|errors?|skipped)(?:, \d+ [a-z]+)* in [\d.]+s(?: \([\d:]+\))?$")
_JEST = re.compile(r"^Tests: +(.*\b\d+ total)$")
_VITEST = re.compile(r"^Tests +(\d+ [a-z ]+(?: \| \d+ [a-z ]+)*) \(\d+\)$")
_CARGO = re.compile(
    r"^test result: (?:ok|FAILED)\. (\d+) passed; (\d+) failed; (\d+) ignored;.*?(?:finished in ([\d.]+)s)?$"
)
_GO_PACKAGE = re.compile(r"^(ok  |FAIL)\t\S+\t(?:\(cached\)|([\d.]+)s)")
_GO_BROKEN = re.compile(r"^FAIL\t\S+ \[(?:build|setup) failed\]$")
_GO_VERBOSE = "=== RUN "
_GO_TEST = re.compile(r"^ *--- (PASS|FAIL|SKIP): ")
_UNITTEST = re.compile(r"^Ran (\d+) tests? in ([\d.]+)s$")
_UNITTEST_END = re.compile(r"^(?:OK|FAILED)(?: \((.*)\))?$")
_SECONDS = re.compile(r"\bin ([\d.]+)s")
_COUNT = re.compile(r"(\d+) (expected fail|[a-z]+)")
_PARTS = re.compile(r"([a-z ]+)=(\d+)")
_TEXT_MARKS = tuple(mark.decode() for mark in MARKS)


class TestResults:
    """Fed line by line; cargo and go say their counts by crate and package, which `end` adds up."""

    __test__ = False

    def __init__(self) -> None:
        self._ran: tuple[int, float] | None = None
        self._go: list[tuple[str, float]] = []
        self._go_tests: dict[str, int] = {}
        self._go_broken = 0
        self._go_is_verbose = False
        self._cargo: list[tuple[int, int, int, float]] = []

    def line(self, text: str) -> TestRunCompleted | None:
        if len(text) > LINE_CHARACTERS_MAX:
            return None
        text = _COLOUR.sub("", text).strip()
        if _PYTEST.match(text) or _PYTEST_QUIET.match(text):
            return _counted("pytest", text)
        if match := _JEST.match(text):
            return _counted("jest", match[1])
        if match := _VITEST.match(text):
            return _counted("vitest", match[1])
        if match := _CARGO.match(text):
            self._cargo.append((int(match[1]), int(match[2]), int(match[3]), float(match[4] or 0)))
        elif match := _GO_PACKAGE.match(text):
            self._go.append((match[1].strip(), float(match[2] or 0)))
        elif _GO_BROKEN.match(text):
            self._go_broken += 1
        elif text.startswith(_GO_VERBOSE):
            self._go_is_verbose = True
        elif match := _GO_TEST.match(text):
            self._go_tests[match[1]] = self._go_tests.get(match[1], 0) + 1
        elif match := _UNITTEST.match(text):
            self._ran = int(match[1]), float(match[2])
        elif self._ran is not None and (match := _UNITTEST_END.match(text)):
            return self._unittest(match[1] or "")
        return None

    def end(self) -> TestRunCompleted | None:
        """What was said in parts."""
        if self._cargo:
            passed, failed, skipped, seconds = (sum(part) for part in zip(*self._cargo, strict=True))
            return _result("cargo test", int(passed), int(failed), int(skipped), seconds)
        if self._go or self._go_broken:
            # Only with -v go tells of tests that passed; without it packages are what can be counted.
            words = [word for word, _ in self._go]
            packages = {"PASS": words.count("ok"), "FAIL": words.count("FAIL"), "SKIP": 0}
            counts = self._go_tests if self._go_is_verbose or "PASS" in self._go_tests else packages
            passed, failed, skipped = (counts.get(word, 0) for word in ("PASS", "FAIL", "SKIP"))
            seconds = sum(seconds for _, seconds in self._go)
            return _result("go test", passed, failed + self._go_broken, skipped, seconds)
        return None

    def _unittest(self, parts: str) -> TestRunCompleted:
        ran, seconds = self._ran or (0, 0.0)
        self._ran = None
        counts = {name.strip(): int(number) for name, number in _PARTS.findall(parts)}
        failed = _sum(counts, "failures", "errors", "unexpected successes")
        skipped = _sum(counts, "skipped", "expected failures")
        return _result("unittest", max(0, ran - failed - skipped), failed, skipped, seconds)


def results_in(text: str) -> TestRunCompleted | None:
    """The last result that a finished command printed."""
    if not any(mark in text for mark in _TEXT_MARKS):
        return None
    results, found = TestResults(), None
    for line in text.splitlines():
        found = results.line(line) or found
    return results.end() or found


def _counted(framework: str, text: str) -> TestRunCompleted:
    counts: dict[str, int] = {}
    for number, word in _COUNT.findall(text):
        counts[word] = counts.get(word, 0) + int(number)
    seconds = _SECONDS.search(text)
    return _result(
        framework,
        counts.get("passed", 0) + counts.get("xpassed", 0),
        _sum(counts, "failed", "error", "errors"),
        _sum(counts, "skipped", "xfailed", "expected fail", "todo", "pending"),
        float(seconds[1]) if seconds else None,
    )


def _sum(counts: dict[str, int], *words: str) -> int:
    return sum(counts.get(word, 0) for word in words)


def _result(framework: str, passed: int, failed: int, skipped: int, seconds: float | None) -> TestRunCompleted:
    duration = None if seconds is None else int(seconds * 1000)
    return TestRunCompleted(framework=framework, passed=passed, failed=failed, skipped=skipped, duration_ms=duration)


def has_marks(lines: bytes, marks: Iterable[bytes] = MARKS) -> bool:
    return any(mark in lines for mark in marks)
