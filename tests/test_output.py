"""Output is whole in its file, unchanged on its way, and sampled in the log."""

import hashlib
import json
import os
import threading
from pathlib import Path

from runfold.events import FileWritten, SubprocessOutput
from runfold.redact import StreamRedactor, redact, secrets_of
from runner.output import EVENT_TEXT_BYTES, Output


def pump(tmp_path: Path, content: bytes, secrets: tuple[str, ...] = (), cut: int = 65536) -> tuple[bytes, Output]:
    """Send the content through an Output; what came out at the other side."""
    output = Output(tmp_path / "output.log", secrets)
    source, feed = os.pipe()
    sink_path = tmp_path / "sink"
    sink = os.open(sink_path, os.O_WRONLY | os.O_CREAT)

    def write() -> None:
        for at in range(0, len(content), cut):
            os.write(feed, content[at : at + cut])
        os.close(feed)

    writer = threading.Thread(target=write)
    writer.start()
    output.pump(source, sink, "stdout")
    writer.join()
    os.close(sink)
    return sink_path.read_bytes(), output


def samples(output: Output) -> list[SubprocessOutput]:
    events = output.take() + output.close()
    return [event for event in events if isinstance(event, SubprocessOutput)]


def test_bytes_pass_unchanged_also_when_they_are_no_text(tmp_path: Path) -> None:
    content = bytes(range(256)) * 100

    passed, output = pump(tmp_path, content, cut=7)
    told = samples(output)

    assert passed == content
    assert (tmp_path / "output.log").read_bytes() == content
    assert output.sha256 == hashlib.sha256(content).hexdigest()
    assert all(len(event.text.encode()) <= EVENT_TEXT_BYTES for event in told)


def test_a_character_cut_in_two_pieces_is_told_whole(tmp_path: Path) -> None:
    _, output = pump(tmp_path, "häßlich ☃ 😀\n".encode(), cut=1)

    assert "".join(event.text for event in samples(output)) == "häßlich ☃ 😀\n"


def test_what_the_samples_skip_is_counted_and_the_tail_is_always_told(tmp_path: Path) -> None:
    content = b"".join(b"line %d\n" % number for number in range(50_000))

    _, output = pump(tmp_path, content)
    told = samples(output)

    assert sum(event.skipped_bytes + len(event.text.encode()) for event in told) == len(content)
    assert told[-1].text.endswith("line 49999\n")
    assert content[told[-1].offset :].startswith(told[-1].text.encode())


def test_a_sentinel_line_becomes_an_event_however_it_is_cut(tmp_path: Path) -> None:
    line = b'noise\n{"runfold": {"type": "file_written", "path": "a.py", "bytes": 12}}\nmore\n'

    _, output = pump(tmp_path, line, cut=3)
    events = output.take() + output.close()

    assert FileWritten(path="a.py", bytes=12, source="sentinel") in events


def test_a_secret_never_reaches_the_file_however_it_is_cut(tmp_path: Path) -> None:
    passed, output = pump(tmp_path, b"key=hunter2hunter2 end\n", ("hunter2hunter2",), cut=4)
    told = samples(output)

    assert passed == b"key=hunter2hunter2 end\n"
    assert (tmp_path / "output.log").read_bytes() == b"key=[redacted] end\n"
    assert "".join(event.text for event in told) == "key=[redacted] end\n"


def test_only_long_values_of_secret_looking_names_are_secrets() -> None:
    found = secrets_of({"API_KEY": "0123456789", "TOKEN": "short", "HOME": "/home/somebody"})

    assert found == ("0123456789",)
    assert redact("a 0123456789 b", found) == "a [redacted] b"


def test_a_secret_that_ends_as_it_begins_is_hidden_at_a_cut() -> None:
    redactor = StreamRedactor(["abcdefga"])

    out = redactor.feed(b"abcdefga") + redactor.feed(b" next") + redactor.finish()

    assert out == b"[redacted] next"


def test_a_secret_is_hidden_as_json_writes_it_too() -> None:
    found = secrets_of({"API_KEY": 'a"b\\c/d\nüé123'})

    for text in (json.dumps('a"b\\c/d\nüé123'), json.dumps('a"b\\c/d\nüé123', ensure_ascii=False).replace("/", "\\/")):
        assert redact(text, found) == '"[redacted]"'
