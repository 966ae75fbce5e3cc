"""The hashes of a log are for ever those that `docs/log-format.md` describes, made of one event or of many at once."""

import hashlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eventstore.chain import (
    all_anchored,
    anchor_digest,
    anchored,
    data_digest,
    data_digests,
    digest_of_anchored,
    link,
    links,
    shared,
)
from tests.described import described

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBER = st.integers(0, 2**63 - 1)
UUID = st.binary(min_size=16, max_size=16)
HASH = st.binary(min_size=32, max_size=32)
HASHED: dict[str, st.SearchStrategy[Any]] = {
    "tenant": TEXT, "run_id": TEXT, "version": NUMBER, "identity": UUID, "type_name": TEXT, "schema": NUMBER,
    "at_us": NUMBER, "actor": TEXT, "cause": st.none() | UUID, "command": st.none() | UUID, "sent": st.none() | HASH,
    "correlation": TEXT, "digest": HASH,
}  # fmt: skip
"""What is hashed of an event, in the order of the page."""
OF_ITS_OWN = {"version", "identity", "sent", "digest"}
"""And what of it no other event shares."""


@given(st.just(b"") | HASH, st.lists(st.fixed_dictionaries(HASHED), min_size=1, max_size=4))
def test_the_hash_of_an_event_is_as_described_alone_and_among_others(previous: bytes, events: list[Any]) -> None:
    chain = [previous]
    for event in events:
        chain.append(described("runfold.v1", chain[-1], *(event[name] for name in HASHED)))

    alone = [link(before, **event) for before, event in zip(chain, events, strict=False)]
    among_others = links(
        chain[:-1],
        [
            shared(
                **{name: event[name] for name in HASHED.keys() - OF_ITS_OWN},
                sent_bytes=None if event["sent"] is None else len(event["sent"]),
            )
            for event in events
        ],
        versions=[event["version"] for event in events],
        ids=[event["identity"] for event in events],
        sents=[event["sent"] or b"" for event in events],
        digests=[event["digest"] for event in events],
    )

    assert alone == among_others == chain[1:]


@given(st.lists(st.tuples(UUID, st.binary(max_size=50)), min_size=1, max_size=4))
def test_the_digest_of_data_is_as_described_alone_and_among_others(salted: list[tuple[bytes, bytes]]) -> None:
    salts, datas = [salt for salt, _ in salted], [data for _, data in salted]

    expected = [hashlib.sha256(salt + data).digest() for salt, data in salted]

    assert [data_digest(*each) for each in salted] == data_digests(salts, datas) == expected


@given(st.just(b"") | HASH, st.lists(st.tuples(NUMBER, NUMBER, HASH), min_size=1, max_size=4))
def test_an_anchor_is_as_described_however_its_events_are_given(
    previous: bytes, events: list[tuple[int, int, bytes]]
) -> None:
    content = b"runfold.anchor.v1" + len(previous).to_bytes(4, "big") + previous
    for position, recorded_at_us, event_hash in events:
        content += position.to_bytes(8, "big") + recorded_at_us.to_bytes(8, "big") + event_hash
    expected = hashlib.sha256(content).digest()

    positions, times, hashes = zip(*events, strict=True)
    at_once = all_anchored(positions, times, b"".join(hashes))

    assert anchor_digest(previous, events) == expected
    assert digest_of_anchored(previous, b"".join(anchored(*event) for event in events)) == expected
    assert digest_of_anchored(previous, at_once) == expected
