"""The program that `runfold demo` drives: it builds and tests a small module in phases, errs once, and mends it."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

BROKEN = "def slug(title):\n    return title.lower().replace(' ', '_')\n"
MENDED = "import re\n\n\ndef slug(title):\n    return re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')\n"
TESTS = """import unittest

from slug import slug


class SlugTest(unittest.TestCase):
    def test_words(self):
        self.assertEqual(slug("Hello World"), "hello-world")

    def test_signs(self):
        self.assertEqual(slug("  What's new? "), "what-s-new")

    def test_plain(self):
        self.assertEqual(slug("plain"), "plain")
"""
README = "# slug\n\n`slug(title)` makes an address out of a title.\n"
MODEL = "demo-model"


def main() -> int:
    pace = 0.0 if "--fast" in sys.argv[1:] else 1.0
    with tempfile.TemporaryDirectory(prefix="runfold-demo-") as folder:
        return _build(Path(folder), pace)


def _build(folder: Path, pace: float) -> int:
    _emit("units_planned", total=3, unit_name="phase")
    _begin("plan", 1, "Reading the task")
    _say("A small module `slug`, its tests, and a page about it.", pace)
    _emit("plan_updated", items=["write slug.py", "write its tests", "make them pass", "describe it"])
    _spend(input_tokens=1_850, output_tokens=240, cost_micros=9_150)
    _emit("unit_approved", unit="plan", index=1)

    _begin("build", 2, "Writing slug.py")
    _write(folder, "slug.py", BROKEN, pace)
    _write(folder, "test_slug.py", TESTS, pace)
    _spend(input_tokens=3_420, cache_read_tokens=1_800, output_tokens=610, cost_micros=17_480)
    if not _test(folder, pace):
        _emit("unit_rejected", unit="build", index=2, attempt=1, reason="two tests fail")
        _say("Spaces became underscores, and signs were kept. Mending it.", pace)
        _begin("build", 2, "Mending slug.py", attempt=2)
        _write(folder, "slug.py", MENDED, pace)
        _spend(input_tokens=4_100, cache_read_tokens=3_300, output_tokens=380, cost_micros=12_900)
        if not _test(folder, pace):
            _emit("unit_failed", unit="build", index=2, attempt=2, reason="tests still fail")
            return 1
    _emit("unit_approved", unit="build", index=2, attempt=2)

    _begin("describe", 3, "Writing README.md")
    _write(folder, "README.md", README, pace)
    _spend(input_tokens=4_600, cache_read_tokens=4_000, output_tokens=150, cost_micros=6_300)
    _emit("unit_approved", unit="describe", index=3)
    _say("Done: three files, three tests, all green.", pace)
    return 0


def _begin(unit: str, index: int, action: str, *, attempt: int = 1) -> None:
    _emit("unit_started", unit=unit, index=index, attempt=attempt, action=action)


def _say(text: str, pace: float) -> None:
    print(text, flush=True)
    _emit("message", text=text)
    time.sleep(pace)


def _write(folder: Path, name: str, content: str, pace: float) -> None:
    kind = "update" if (folder / name).exists() else "add"
    (folder / name).write_text(content)
    _emit("file_written", path=name, bytes=len(content), kind=kind)
    time.sleep(pace)


def _spend(**counts: int) -> None:
    _emit("token_usage", model=MODEL, **counts)


def _test(folder: Path, pace: float) -> bool:
    """Run the module's tests for real, and report what they said."""
    command = [sys.executable, "-B", "-m", "unittest", "-v"]
    _emit("test_run_started", framework="unittest", command="python -m unittest -v")
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    print(done.stderr, flush=True)
    lines = done.stderr.splitlines()
    _emit(
        "test_run_completed",
        framework="unittest",
        command="python -m unittest -v",
        passed=sum(line.endswith("... ok") for line in lines),
        failed=sum(line.endswith(("... FAIL", "... ERROR")) for line in lines),
        duration_ms=round((time.monotonic() - started) * 1000),
    )
    time.sleep(pace)
    return done.returncode == 0


def _emit(type_: str, **fields: Any) -> None:
    """The line that runfold understands, on a line of its own."""
    print(msgspec.json.encode({"runfold": {"type": type_, **fields}}).decode(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
