"""Output is whole in its file, unchanged on its way, and sampled in the log."""

import hashlib
import json
import os
import re
import resource
import threading
from pathlib import Path

import pytest

from runfold.events import FileWritten, Message, SubprocessOutput
from runfold.redact import FormRedactor, StreamRedactor, redact, secrets_of
from runner.turns import output_file
from runner.turns.output import EVENT_TEXT_BYTES, Output
from tests.working import working


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
    assert output.file.sha256 == hashlib.sha256(content).hexdigest()
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


FORMS = (
    b"sk-ant-" + b"a1" * 20,
    b"ghp_" + b"b" * 36,
    b"github_pat_" + b"c" * 30,
    b"glpat-" + b"d" * 20,
    b"xoxb-" + b"1234567890",
    b"AKIA" + b"E" * 16,
    b"AIza" + b"f" * 35,
    b"npm_" + b"g" * 36,
    b"eyJ" + b"h" * 12 + b".eyJ" + b"i" * 12 + b"." + b"j" * 12,
    b"-----BEGIN RSA PRIVATE KEY-----\n" + b"k" * 64 + b"\n" + b"l" * 64 + b"\n-----END RSA PRIVATE KEY-----",
)


@pytest.mark.parametrize("secret", FORMS, ids=lambda secret: secret[:8].decode())
@pytest.mark.parametrize("cut", [1, 3, 7, 16, 65536])
def test_what_has_the_form_of_a_secret_never_reaches_the_file_however_it_is_cut(
    tmp_path: Path, secret: bytes, cut: int
) -> None:
    content = b"it is " + secret + b", twice:\n" + secret + b"\n"

    passed, output = pump(tmp_path, content, cut=cut)
    told = "".join(event.text for event in samples(output)).encode()

    kept = (tmp_path / "output.log").read_bytes()
    assert passed == content
    assert kept == told
    # Where it was cut in the sign, which is no secret, the sign may stay.
    assert re.fullmatch(rb"it is [\w-]{0,11} ?\[redacted\], twice:\n[\w-]{0,11} ?\[redacted\]\n", kept)


@pytest.mark.parametrize("cut", [1, 5, 65536])
def test_the_password_in_an_address_and_a_token_never_reach_the_file(tmp_path: Path, cut: int) -> None:
    content = b'push https://me:hunter2@host/path\n{"a":"Authorization: Bearer ' + b"t" * 20 + b'"}\n'

    _, output = pump(tmp_path, content, cut=cut)
    output.close()

    kept = (tmp_path / "output.log").read_bytes()
    assert kept == b'push https://[redacted]@host/path\n{"a":"Authorization: Bearer [redacted]"}\n'


def test_what_has_no_form_of_a_secret_is_kept_as_soon_as_it_is_said() -> None:
    redactor = FormRedactor()

    for said in (
        b"Enter name:",
        b"......",
        b"disks",
        b" see http://localhost:80/x",
        b"-----BEGIN CERTIFICATE-----\nab",
    ):
        assert redactor.feed(said) == said
    json_line = b'{"url":"http://host","a":"b@c"}\n'
    assert redactor.feed(json_line) == json_line
    assert redactor.finish() == b""


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


def test_output_that_leaves_no_room_on_the_disk_is_kept_as_far_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_file, "RESERVE_BYTES", 1 << 60)
    content = b"0123456789abcdef" * 200_000

    passed, output = pump(tmp_path, content)
    told = samples(output)

    kept = (tmp_path / "output.log").read_bytes()
    assert output_file.LOOK_BYTES <= len(kept) < len(content)
    assert (passed, kept) == (content, content[: len(kept)])
    assert (output.file.error, output.file.size_bytes) == ("no space left on device", len(kept))
    assert output.file.sha256 == hashlib.sha256(kept).hexdigest()
    assert kept.decode().endswith(told[-1].text)


def test_a_write_that_is_taken_in_part_is_kept_in_part(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        file = output_file.OutputFile(tmp_path / "output.log")
        kept = file.write(b"a" * 150_000) + file.write(b"b")
        file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert (kept, file.size_bytes, file.error) == (b"a" * 100_000, 100_000, "file too large")
    assert (tmp_path / "output.log").read_bytes() == kept


@pytest.mark.slow
async def test_a_run_whose_output_fills_the_disk_is_ended_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_file, "RESERVE_BYTES", 1 << 60)
    async with working(tmp_path, "[workflow.w]\ncommand = ['yes']\nwatch_files = false\n") as worker:
        run_id = await worker.queue("w")
        run = await worker.wait_rest(run_id)

        assert (run.status, run.reason_code) == ("failed", "SYS_WRITE_ERROR")
        assert run.error is not None
        assert run.error.message == "the output of `yes` could not be kept: no space left on device"


@pytest.mark.slow
async def test_half_a_character_at_the_end_and_in_an_agents_line_loses_nothing(tmp_path: Path) -> None:
    line = '{"type":"item.completed","item":{"type":"agent_message","text":"gr\\303"}}'
    text = (
        "[workflow.plain]\ncommand = ['printf', 'gr\\303']\n"
        f"[workflow.agent]\nformat = 'codex'\ncommand = ['printf', '{line}\\n{{\"type\":\"turn.completed\"}}\\n']\n"
    )
    async with working(tmp_path, text) as worker:
        plain, agent = await worker.queue("plain"), await worker.queue("agent")
        runs = [await worker.wait_rest(run_id) for run_id in (plain, agent)]
        events = [recorded.event() for run_id in (plain, agent) for recorded in await worker.events(run_id)]

    assert [run.status for run in runs] == ["completed", "completed"]
    assert (tmp_path / "data" / "runs" / plain / "output.log").read_bytes() == b"gr\xc3"
    assert "".join(event.text for event in events if isinstance(event, SubprocessOutput)).startswith("gr\ufffd")
    assert [event.text for event in events if isinstance(event, Message)] == ["gr\ufffd"]
