"""A kind of secret stands in one table, and is hidden both in events and in what a command prints."""

import json

import pytest

from runfold.redact import FORMS, REDACTED, Form, FormRedactor, Redactor

KEY = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIE" * 40 + "\n-----END RSA PRIVATE KEY-----"
# By the first sign: a secret of the form, and what stands before it and is no secret.
SAMPLES = {
    b"sk-": ("", "sk-ant-" + "a1" * 20),
    b"ghp_": ("", "ghp_" + "b" * 36),
    b"github_pat_": ("", "github_pat_" + "c" * 30),
    b"glpat-": ("", "glpat-" + "d" * 20),
    b"xox": ("", "xoxb-1234567890"),
    b"AKIA": ("", "AKIA" + "E" * 16),
    b"AIza": ("", "AIza" + "f" * 35),
    b"npm_": ("", "npm_" + "g" * 36),
    b"eyJ": ("", "eyJ" + "h" * 12 + ".eyJ" + "i" * 12 + "." + "j" * 12),
    b"earer ": ("Authorization: Bearer ", "k" * 20),
    b"://": ("postgres://", "user:hunter2"),
    b"-----BEGIN ": ("", KEY),
}


def printed(content: bytes) -> bytes:
    redactor = FormRedactor()
    return redactor.feed(content) + redactor.finish()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.signs[0].decode())
def test_a_kind_of_secret_is_hidden_in_events_and_in_what_a_command_prints(form: Form) -> None:
    before, secret = SAMPLES[form.signs[0]]
    text, hidden = f"it is {before}{secret}@host", f"it is {before}{REDACTED}@host"

    assert Redactor().text(text) == hidden
    assert json.loads(Redactor().data(json.dumps([text]).encode())) == [hidden]
    assert printed(f"{text}\n".encode()) == f"{hidden}\n".encode()
    assert json.loads(printed(json.dumps([text]).encode() + b"\n")) == [hidden]
    assert any(sign in text.encode() for sign in form.signs)


def test_every_sign_of_a_kind_of_secret_leads_to_it() -> None:
    signs = [(form, sign) for form in FORMS for sign in form.signs]

    for form, sign in signs:
        before, secret = SAMPLES[form.signs[0]]
        other = f"{before}{secret}".replace(form.signs[0].decode(), sign.decode())

        assert REDACTED in Redactor().text(other + "@host"), sign
        assert REDACTED.encode() in Redactor().data(json.dumps([other + "@host"]).encode()), sign
        assert REDACTED.encode() in printed(other.encode() + b"@host"), sign
