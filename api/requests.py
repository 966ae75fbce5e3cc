"""Requests into typed values: what is not exactly right is refused with 400 and a hint, before any handler runs."""

import re
from typing import Any, cast, get_origin, get_type_hints

import msgspec
from aiohttp import web

from runfold.errors import BadRequest

NUMBER_MAX = 2**53  # JSON readers keep larger whole numbers only roughly.
_lists: dict[type[Any], frozenset[str]] = {}
KNOWN_MAX = 1_000  # Queries.
KNOWN_CHARACTERS_MAX = 1_000
_known: dict[tuple[type[Any], str], Any] = {}
DEPTH_MAX = 64  # Deep enough for any honest document, and far from every parser's own limit.
_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte != ord("\\")) + b"\n\r\t"
_NOT_STRUCTURE = bytes(byte for byte in range(0x100) if byte not in b'"{}[]')
_BRACKETS_ALIKE = bytes.maketrans(b"[]", b"{}")
_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_NEAR_LARGEST = b"0" * 16
_LARGE = re.compile(rb"(?:\A|[:,\[\s])-?(?:[0-9]{16}|[0-9.]+[eE])")
"""A number that has so many digits, or an exponent; and what looks like one after a comma in a text."""


def decode_body(content: bytes, kind: type[Any]) -> Any:
    try:
        if not _is_plain(content):
            document: object = msgspec.json.decode(content)
            _check(document)
        return msgspec.json.decode(content, type=kind)
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply", hint=f"at most {DEPTH_MAX} levels") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadRequest(
            f"the body is not valid: {_lower(error)}", hint="`/api/openapi.json` describes the body of every route"
        ) from error


def _is_plain(content: bytes) -> bool:
    """Whether a look at the bytes tells that the document is neither deep nor has large numbers, if it is one at all.

    Of what is not, it is only known when all of it was decoded: what has escapes, and what is not printable ASCII.
    """
    if content.translate(None, _PLAIN):
        return False
    digits = content.translate(_DIGITS_ALIKE)
    if (_NEAR_LARGEST in digits or b"0e" in digits) and _LARGE.search(content):
        return False
    return content.count(b"{") + content.count(b"[") <= DEPTH_MAX or _is_shallow(content)


def _is_shallow(content: bytes) -> bool:
    """Whether a document without escapes is seen to be no deeper than allowed: brackets within texts leave it open."""
    # What is left of a text without brackets are its two quotes; of one with some, at least the first quote stays.
    structure = content.translate(_BRACKETS_ALIKE, _NOT_STRUCTURE).replace(b'""', b"")
    for _ in range(DEPTH_MAX):
        inner = structure.replace(b"{}", b"")
        if len(inner) == len(structure):
            break
        structure = inner
    return not structure


def decode_query(request: web.Request, kind: type[Any]) -> Any:
    """Lists are written `a=1&a=2` or `a=1,2`; another name given twice, or an unknown one, is refused.

    What was asked before is not read again: most requests of a page that is open are the same.
    """
    text = request.rel_url.raw_query_string
    found = _known.get((kind, text))
    if found is None:
        found = _decode_query(request, kind)
        if len(text) <= KNOWN_CHARACTERS_MAX:
            while len(_known) >= KNOWN_MAX:
                _known.pop(next(iter(_known)))
            _known[kind, text] = found
    return found


def _decode_query(request: web.Request, kind: type[Any]) -> Any:
    lists = _lists.get(kind)
    if lists is None:
        lists = _lists[kind] = _lists_of(kind)
    values: dict[str, Any] = {}
    for name in set(request.query):
        given = request.query.getall(name)
        if name in lists:
            values[name] = [part for text in given for part in text.split(",") if part]
        elif len(given) > 1:
            raise BadRequest(f"query parameter `{name}` is given more than once", hint="give it once")
        else:
            values[name] = given[0]
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        raise BadRequest(
            f"the query is not valid: {_lower(error)}", hint=f"this route knows {known}" if known else "give no query"
        ) from error


def _lists_of(kind: type[Any]) -> frozenset[str]:
    """The parameters that may be given more than once."""
    hints = get_type_hints(kind)
    return frozenset(
        field.encode_name for field in msgspec.structs.fields(kind) if get_origin(hints[field.name]) is tuple
    )


def _check(document: object) -> None:
    level: list[object] = [document]
    for _ in range(DEPTH_MAX):
        deeper: list[object] = []
        for value in level:
            # What was decoded is of exactly these types, and most of it is text.
            kind = type(value)
            if kind is str:
                continue
            if kind is dict:
                deeper.extend(cast("dict[str, object]", value).values())
            elif kind is list:
                deeper.extend(cast("list[object]", value))
            elif (kind is int or kind is float) and abs(cast("float", value)) > NUMBER_MAX:
                raise BadRequest(f"the number {value} is larger than 2^53", hint="send it as text")
        if not deeper:
            return
        level = deeper
    raise BadRequest("the body is nested too deeply", hint=f"at most {DEPTH_MAX} levels")


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]
