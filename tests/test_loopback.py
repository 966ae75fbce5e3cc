"""The ports of servers that tests start on this machine."""

import pytest

from deploy import loopback


def test_no_port_is_given_twice_also_to_who_has_not_used_his_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "PORTS", range(14_800, 15_000))
    found = [loopback.free_port() for _ in range(60)]
    assert len(set(found)) == len(found)
