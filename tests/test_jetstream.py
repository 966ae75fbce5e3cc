"""The replicated log's address and subjects; what it promises is in `tests/contract`."""

import pytest

from eventstore.jetstream.address import Address, parse_address, without_password
from eventstore.jetstream.messages import subject_of
from runfold.errors import InvalidSetting


@pytest.mark.parametrize(
    ("text", "servers", "name"),
    [
        ("nats://a", ("nats://a:4222",), "runfold"),
        ("nats://a:1,b/logs", ("nats://a:1", "nats://b:4222"), "logs"),
        ("tls://u:p@a,b:2/x_y-1", ("tls://u:p@a:4222", "tls://u:p@b:2"), "x_y-1"),
        ("nats://[::1],[::2]:9/", ("nats://[::1]:4222", "nats://[::2]:9"), "runfold"),
    ],
)
def test_an_address_names_servers_and_a_log(text: str, servers: tuple[str, ...], name: str) -> None:
    assert parse_address(text) == Address(servers=servers, name=name)


@pytest.mark.parametrize("text", ["", "a:4222", "http://a", "nats://", "nats://a,,b", "nats://a/b.c", "nats://a/b/c"])
def test_what_is_no_address_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        parse_address(text)

    assert refused.value.hint


def test_a_password_is_never_shown() -> None:
    with pytest.raises(InvalidSetting) as refused:
        parse_address("nats://u:hunter2@,b")

    assert "hunter2" not in str(refused.value)
    assert without_password("nats://u:hunter2@a,b/c") == "nats://u:***@a,b/c"


def test_any_name_of_a_run_is_a_subject_of_its_own() -> None:
    names = ["r_a", "$runfold", "a.b", "a.*", ">", "-", "ü😀", "a b", "A" * 512, "-a", "_", "\n"]

    subjects = [subject_of("log", name) for name in names]

    assert len(set(subjects)) == len(names)
    for subject in subjects:
        assert subject.count(".") == 1
        assert not set(subject) & set(" *>\r\n\t")
