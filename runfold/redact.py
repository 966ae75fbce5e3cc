"""Secret values never reach what is stored: values of secret-looking variables, and what by its form is a secret."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

REDACTED = "[redacted]"
SECRET_CHARACTERS_MIN = 8  # Shorter values ("1", "true") would blank ordinary words.
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)


class Form(NamedTuple):
    """What a kind of secret looks like, wherever it stands."""

    text: str
    """What is hidden, as a pattern."""
    rare: bytes
    """What every such text has, as a pattern that begins with a rare character: other data get no closer look."""
    signs: tuple[bytes, ...]
    """One of these stands in each, in what a command printed: output is much, and secrets are few."""
    printed: bytes | None = None
    """The pattern for what a command printed, where it is another: that may be JSON, or be cut."""


FORMS = (
    Form(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}", rb"-(?<=sk-)", (b"sk-",)),  # Anthropic, OpenAI and others.
    Form(r"gh[pousr]_[A-Za-z0-9]{36,}", rb"_(?<=gh[pousr]_)", (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")),
    Form(r"github_pat_[A-Za-z0-9_]{22,}", rb"_(?<=github_pat_)", (b"github_pat_",)),
    Form(r"glpat-[A-Za-z0-9_-]{20,}", rb"-(?<=glpat-)", (b"glpat-",)),
    Form(r"xox[abeoprs]-[A-Za-z0-9-]{10,}", rb"x(?<=xox)", (b"xox",)),
    Form(r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])", rb"AKIA|ASIA", (b"AKIA", b"ASIA")),
    Form(r"AIza[A-Za-z0-9_-]{35}", rb"AIza", (b"AIza",)),
    Form(r"npm_[A-Za-z0-9]{36}", rb"_(?<=npm_)", (b"npm_",)),
    # A signed web token.
    Form(r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}", rb"J(?<=eyJ)", (b"eyJ",)),
    Form(r"(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*", rb"Bearer |bearer ", (b"earer ",)),
    # User and password in an address, which in JSON ends where its text does; a character has up to four bytes.
    Form(
        r"(?<=://)[^/\s:@]{1,256}:[^/\s@]{1,256}(?=@)",
        rb"://[^/\s]{1,2052}@",
        (b"://",),
        rb"""(?<=://)[^/\s:@"'<>\\]{1,256}:[^/\s@"'<>\\]{1,256}(?=@)""",
    ),
    # In JSON a key has its line breaks as `\n`.
    Form(
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
        rb"Y(?<=PRIVATE KEY)",
        (b"-----BEGIN ",),
        rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"
        rb"(?:[A-Za-z0-9+/=\s:,\\-]{0,16384}?-----END [A-Z ]{0,30}PRIVATE KEY-----|[A-Za-z0-9+/=\s\\]{64,16384})",
    ),
)
"""Those of output are hidden one after the other, in this order."""


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values to hide, longest first, so that a secret that contains another goes as a whole.

    A value that JSON writes otherwise is hidden as JSON writes it too: agents print their output in JSON.
    """
    values = {
        value
        for name, value in environment.items()
        if len(value) >= SECRET_CHARACTERS_MIN and _SECRET_NAME.search(name)
    }
    written = {form for value in values for form in _json_forms(value)}
    return tuple(sorted(values | written, key=lambda value: (-len(value), value)))


def _json_forms(value: str) -> set[str]:
    plain, ascii_only = json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]
    return {form for text in (plain, ascii_only) for form in (text, text.replace("/", "\\/"))}


def redact(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text


class Redactor:
    """Redacts the data of events: known secrets, and what by its form is one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({secret for secret in secrets if secret}, key=lambda secret: (-len(secret), secret))
        self._pattern = re.compile("|".join([*map(re.escape, known), *(form.text for form in FORMS)]))
        # In JSON a text may be escaped, so this finds what is worth a closer look, and sometimes more than that.
        escaped = [json.dumps(secret, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass") for secret in known]
        self._signs = re.compile(b"|".join([*map(re.escape, escaped), *(form.rare for form in FORMS)]))

    def text(self, text: str) -> str:
        return self._pattern.sub(REDACTED, text)

    def found(self, text: str) -> frozenset[str]:
        """The secrets that are in a text."""
        return frozenset(match.group() for match in self._pattern.finditer(text))

    def data(self, content: bytes) -> bytes:
        """The JSON of an event with its texts redacted; unchanged where there is nothing to hide."""
        if not self._signs.search(content):
            return content
        value = msgspec.json.decode(content)
        redacted = with_texts(value, self.text)
        return content if redacted == value else msgspec.json.encode(redacted)

    def all_data(self, contents: list[bytes]) -> list[bytes]:
        """The same of the events of one append, with one look at all of them where there is nothing to hide."""
        # JSON has no line breaks within, so nothing is found that begins in one and ends in another.
        if not self._signs.search(b"\n".join(contents)):
            return contents
        return [self.data(content) for content in contents]


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text in it, names too, changed."""
    match value:
        case str():
            return change(value)
        case dict():
            return {change(name): with_texts(inner, change) for name, inner in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case list():
            return [with_texts(inner, change) for inner in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


class StreamRedactor:
    """Redacts bytes that come in pieces; a piece that may end inside a secret is held back until that is known."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(
            sorted({secret.encode("utf-8", "surrogateescape") for secret in secrets if secret}, key=len, reverse=True)
        )
        self._pattern = re.compile(b"|".join(map(re.escape, self._secrets))) if self._secrets else None
        self._longest = max(map(len, self._secrets), default=0)
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        if self._pattern is None:
            return chunk
        content = self._held + chunk
        hold = self._first_open(content, max(0, len(content) - self._longest + 1))
        for match in self._pattern.finditer(content):
            if match.start() >= hold:
                break
            if hold < match.end():
                hold = self._first_open(content, match.end())
        self._held = content[hold:]
        return self._pattern.sub(REDACTED.encode(), content[:hold])

    def finish(self) -> bytes:
        content, self._held = self._held, b""
        return self._pattern.sub(REDACTED.encode(), content) if self._pattern else content

    def _first_open(self, content: bytes, start: int) -> int:
        """Where the earliest unfinished secret at the end of the content begins, or the content's length."""
        first = len(content)
        for secret in self._secrets:
            at = content.find(secret[:1], max(start, len(content) - len(secret) + 1), first)
            while at >= 0:
                if secret.startswith(content[at:]):
                    first = at
                    break
                at = content.find(secret[:1], at + 1, first)
        return first


_PRINTED = tuple((form.signs, re.compile(form.printed or form.text.encode())) for form in FORMS)
_WORD = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~+/=:%&?!$*-"
_KEY_BEGUN = b"-----BEGIN "
_KEY_OPEN = re.compile(rb"-----BEGIN [A-Z ]{0,48}(?:-{0,5}\Z|(?<=PRIVATE KEY)-----[A-Za-z0-9+/=\s:,\\-]*\Z)")
_KEY_ENDED = re.compile(rb"-----END [A-Z ]{0,30}PRIVATE KEY-----")
WORD_BYTES_MAX = 2048  # More than any of these but a key.
KEY_BYTES_MAX = 16 * 1024
SHOWN_BYTES = 16  # As many as the longest sign has, and what stands before one.


class FormRedactor:
    """Redacts, in bytes that come in pieces, what by its form is a secret; what may be an unfinished one waits.

    Of a secret that began in an earlier piece its sign was shown, which is the same for all.
    """

    def __init__(self) -> None:
        self._shown = self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        content = self._shown + self._held + chunk
        return self._show(content, max(len(self._shown), _open_form(content)))

    def finish(self) -> bytes:
        content = self._shown + self._held
        return self._show(content, len(content))

    def _show(self, content: bytes, end: int) -> bytes:
        before, self._held = self._shown, content[end:]
        redacted = _without_forms(content[:end])
        known = next((at for at, byte in enumerate(before) if redacted[at : at + 1] != bytes((byte,))), len(before))
        shown = redacted[known:]
        self._shown = (before + shown)[-SHOWN_BYTES:]
        return shown


def _without_forms(content: bytes) -> bytes:
    for signs, form in _PRINTED:
        if any(sign in content for sign in signs):
            content = form.sub(REDACTED.encode(), content)
    return content


def _open_form(content: bytes) -> int:
    """Where what may be an unfinished secret at the end begins; the content's length where there is none."""
    size = len(content)
    key = content.rfind(_KEY_BEGUN, max(0, size - KEY_BYTES_MAX))
    if key >= 0 and _KEY_OPEN.match(content, key) and not _KEY_ENDED.search(content, key):
        return key
    word = size - len(content[-WORD_BYTES_MAX:]) + len(content[-WORD_BYTES_MAX:].rstrip(_WORD))
    if word < size and content[max(0, word - 6) : word] == b"earer ":
        return word
    found = (content.find(sign, word) for signs, _ in _PRINTED for sign in signs)
    # The user of an address stands before its first slash.
    return min(
        (at for at in found if at >= 0 and not (content[at] == 0x3A and b"/" in content[at + 3 :])), default=size
    )
