"""How often the redactor takes for a secret what is none, measured on recorded sessions."""

from pathlib import Path

import pytest

from runfold.redact import REDACTED, Redactor

RECORDINGS = Path(__file__).parents[2] / "shared" / "data"
SUFFIXES = {".jsonl", ".json", ".log", ".txt", ".md"}
FILE_BYTES_MAX = 2 * 1024 * 1024
FALSE_SHARE_MAX = 0.01


@pytest.mark.slow
@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="needs the recordings of ../shared/data")
def test_of_what_real_sessions_say_at_most_one_in_a_hundred_is_taken_for_a_secret() -> None:
    redactor, lines, taken = Redactor(), 0, list[str]()

    for path in sorted(RECORDINGS.rglob("*")):
        if path.suffix in SUFFIXES and path.is_file() and path.stat().st_size <= FILE_BYTES_MAX:
            for line in path.read_text("utf-8", "replace").splitlines():
                lines += 1
                if REDACTED in redactor.text(line):
                    taken.append(f"{path.name}: {sorted(redactor.found(line))[:1]}")

    assert lines > 1_000
    assert len(taken) <= lines * FALSE_SHARE_MAX, taken[:20]
