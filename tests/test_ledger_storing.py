"""What the ledger does to events before they are stored: secrets go, long texts go beside, a retry stays known."""

import json
import uuid
from pathlib import Path

import pytest

from eventstore.ledger import Ledger
from eventstore.objects import blobs
from eventstore.sqlite import SqliteLog
from runfold.commands import Annotate, OpenReported
from runfold.errors import EventIdConflict
from runfold.events import Message, NoteAdded, RunQueued
from runfold.redact import REDACTED, Redactor
from tests.ledgers import RUN, act, new_ids, say, stored

SECRET = 'p4ss"word\\with\nall'
FORMS = {
    "anthropic": "sk-ant-api03-" + "a" * 40,
    "openai": "sk-proj-" + "b" * 40,
    "github": "ghp_" + "c" * 36,
    "aws": "AKIA" + "D" * 16,
    "slack": "xoxb-1234567890-abcdef",
    "jwt": "eyJ" + "e" * 20 + ".eyJ" + "f" * 20 + "." + "g" * 20,
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
}


async def test_a_secret_is_not_stored_whatever_the_source_and_a_retry_is_still_known(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    ledger = Ledger(log, secrets=[SECRET])
    (name,) = new_ids(1)
    opening = OpenReported(queued=RunQueued(driver="reported", title=f"t {SECRET}", context={SECRET: [SECRET]}))
    opened = await act(ledger, opening)
    first = await act(ledger, say(f"it is {SECRET}!"), ids=[name])
    note = await act(ledger, Annotate(note=SECRET))
    again = await act(ledger, say(f"it is {SECRET}!"), ids=[name])
    with pytest.raises(EventIdConflict):
        await act(ledger, say(f"it is {REDACTED}!"), ids=[name])
    refolded = await Ledger(log).state(RUN)
    await log.close()

    assert first.events[0].event() == Message(text=f"it is {REDACTED}!")
    assert note.events[0].event() == NoteAdded(text=REDACTED)
    assert opened.run.title == f"t {REDACTED}"
    assert again.duplicate
    assert again.events == first.events
    assert refolded == again.run
    assert not any(b"p4ss" in (recorded.data or b"") for recorded in stored(tmp_path))


@pytest.mark.parametrize("form", FORMS)
def test_what_has_the_form_of_a_secret_is_redacted_wherever_it_stands(form: str) -> None:
    text = f"first\n{FORMS[form]}\nlast"

    assert Redactor().text(text) == f"first\n{REDACTED}\nlast"
    data = Redactor().data(b'{"text":' + json.dumps(text).encode() + b"}")
    assert data == b'{"text":"first\\n[redacted]\\nlast"}'


def test_a_password_in_an_address_and_a_bearer_token_are_redacted() -> None:
    redactor = Redactor()

    assert redactor.text("postgres://u:pw@host/db") == f"postgres://{REDACTED}@host/db"
    assert redactor.text("Authorization: Bearer abcdefghijklmnop1234") == f"Authorization: Bearer {REDACTED}"


@pytest.mark.parametrize(
    "text", ["task-aaaaaaaaaaaaaaaaaaaaaaaa", "risk-free", "https://host/a@b", "12345678", "the bearer of news"]
)
def test_ordinary_words_stay(text: str) -> None:
    assert Redactor().text(text) == text


def test_a_number_that_is_also_a_secret_does_not_break_the_json() -> None:
    data = Redactor(["12345678"]).data(b'{"n":12345678,"text":"12345678"}')

    assert data == b'{"n":12345678,"text":"[redacted]"}'


async def test_a_text_too_long_for_an_event_is_on_the_disk_before_the_event_that_names_it(tmp_path: Path) -> None:
    text = "x" * 200_000
    (name,) = new_ids(1)
    log = await SqliteLog.open(tmp_path)
    ledger = Ledger(log, data=tmp_path, secrets=["y" * 10])
    await act(ledger, OpenReported(queued=RunQueued(driver="reported")), command_id=str(uuid.uuid4()))
    first = await act(ledger, say(text + "y" * 10), ids=[name])
    again = await act(ledger, say(text + "y" * 10), ids=[name])
    await log.close()

    event = first.events[0].event()
    assert isinstance(event, Message)
    assert text.startswith(event.text)
    assert again.events == first.events
    (path,) = (tmp_path / "blobs").glob("*/*")
    assert blobs.get(tmp_path, path.name) == (text + REDACTED).encode()


def test_many_events_looked_through_at_once_are_redacted_as_each_would_be() -> None:
    redactor = Redactor(["hunter2-hunter2"])
    plain = [b'{"text":"hunter2-"}', b'{"text":"hunter2"}', b'{"path":"a.py"}']
    secret = b'{"text":"it is hunter2-hunter2"}'

    assert redactor.all_data(plain) == plain
    assert redactor.all_data([*plain, secret]) == [*plain, b'{"text":"it is [redacted]"}']
