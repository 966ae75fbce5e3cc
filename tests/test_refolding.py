"""Views that another version has made: a server folds them anew beside itself, and says how far that is."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from cli.settings import load_settings
from eventstore.sqlite3_module import sqlite3
from projections.engine.generations import current_generation
from projections.engine.underway import UNDERWAY_FILE, read_underway, told
from runfold.errors import InvalidSetting
from tests.served import VIEWER, serving
from tests.terminal import first_line, read, ready, record, runfold, started, wait_for_word


def make_older(data: Path, view: str = "runs") -> None:
    """Leave a view as an earlier runfold would have left it."""
    with closing(sqlite3.connect(data / "views.1.db")) as views, views:
        views.execute("UPDATE checkpoints SET fingerprint = 'an older one' WHERE view = ?", (view,))


@pytest.mark.slow
def test_a_server_folds_the_views_of_another_version_anew_by_itself(tmp_path: Path) -> None:
    record(tmp_path)
    read(tmp_path, "ps")
    make_older(tmp_path)
    record(tmp_path)
    before = read(tmp_path, "ps")["items"]

    with started(tmp_path, "up", "--port", "0") as server:
        url = first_line(server).partition("/login")[0]
        wait_for_word(server, "were folded anew")
        after = ready(url)

    assert len(before) == 1
    assert (after["status"], after["views"], after["rebuilding"]) == ("ready", [], None)
    assert current_generation(tmp_path) == 2
    assert len(read(tmp_path, "ps")["items"]) == 2


@pytest.mark.slow
def test_a_server_that_may_not_fold_them_anew_says_what_to_type(tmp_path: Path) -> None:
    record(tmp_path)
    read(tmp_path, "ps")
    make_older(tmp_path)
    record(tmp_path)

    with started(tmp_path, "up", "--port", "0", RUNFOLD_REBUILD_AFTER_UPGRADE="false") as server:
        found = ready(first_line(server).partition("/login")[0])
    listed = runfold(tmp_path, "ps")

    assert (found["status"], [trouble["view"] for trouble in found["views"]]) == ("degraded", ["runs"])
    assert found["views"][0]["remedy"].startswith("`runfold rebuild`")
    assert "`runfold rebuild`" in listed.stderr
    assert current_generation(tmp_path) == 1


async def test_probes_and_admins_hear_how_far_a_rebuild_is(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.open_run()
        before = await (await server.client.get("/readyz")).json()
        make_older(tmp_path)
        with told(tmp_path) as tell:
            tell(3, 10)
            during = await (await server.client.get("/readyz")).json()
            places = await (await server.ask("GET", "/api/admin/views")).json()
            refused = await server.ask("GET", "/api/admin/views", token=VIEWER)
        after = await (await server.client.get("/readyz")).json()

    assert (before["status"], before["rebuilding"], after["rebuilding"]) == ("ready", None, None)
    assert (during["status"], during["rebuilding"]) == ("degraded", {"done": 3, "total": 10})
    assert during["views"][0]["remedy"] == "wait: they are being folded anew: 3 of 10 events"
    assert (places["rebuilding"]["done"], places["rebuilding"]["pid"]) == (3, os.getpid())
    assert refused.status == 403


def test_a_rebuild_that_is_gone_is_not_told_of(tmp_path: Path) -> None:
    with told(tmp_path) as tell:
        tell(1, 2)
        content = (tmp_path / UNDERWAY_FILE).read_bytes()
        going = read_underway(tmp_path)
    assert going is not None
    assert read_underway(tmp_path) is None

    ended = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(ended, 0)
    (tmp_path / UNDERWAY_FILE).write_bytes(content.replace(b"%d" % os.getpid(), b"%d" % ended))
    assert read_underway(tmp_path) is None
    for strange in (b"", b"{}", b"\xff", content.replace(b"%d" % os.getpid(), b"9" * 30)):
        (tmp_path / UNDERWAY_FILE).write_bytes(strange)
        assert read_underway(tmp_path) is None


def test_a_setting_that_is_neither_true_nor_false_is_refused(tmp_path: Path) -> None:
    given = {"RUNFOLD_REBUILD_AFTER_UPGRADE": "perhaps"}
    with pytest.raises(InvalidSetting, match="RUNFOLD_REBUILD_AFTER_UPGRADE"):
        load_settings({}, environ=given, folder=tmp_path)
    assert load_settings({}, environ={}, folder=tmp_path).rebuild_after_upgrade
