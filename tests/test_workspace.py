"""What a turn does to the files of its workspace is told once, also what it does in its last moment."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runfold.events import Event, FileDeleted, FileWritten, Telemetry
from runner.turns import workspace as module
from runner.turns.workspace import Workspace
from tests.working import Working, working

RECORDINGS = Path(__file__).parent / "recordings"


def told(events: list[Event]) -> list[tuple[str, str]]:
    return [
        (event.path, "delete" if isinstance(event, FileDeleted) else str(event.kind))
        for event in events
        if isinstance(event, FileWritten | FileDeleted)
    ]


def test_what_was_written_changed_and_deleted_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("1")
    (tmp_path / "gone").write_text("1")
    (tmp_path / "same").write_text("1")
    workspace = Workspace(tmp_path)

    (tmp_path / "old").write_text("12")
    (tmp_path / "gone").unlink()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "new").write_text("123")
    events = workspace.finish()

    assert events == [
        FileWritten(path="deep/er/new", bytes=3, kind="add", source="workspace"),
        FileWritten(path="old", bytes=2, kind="update", source="workspace"),
        FileDeleted(path="gone", source="workspace"),
    ]
    assert workspace.finish() == []


def test_what_is_no_work_is_not_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    workspace = Workspace(tmp_path, ignored=("*.tmp", "build/out"), others=(data, tmp_path / "work.log"))

    for name in (".git/index", "a/node_modules/x/y.js", "venv/bin/python", "a.pyc", "data/log.db", "build/out/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    for name in ("a.tmp", "work.log", "build/kept", "outside.tmp.py"):
        (tmp_path / name).write_text("1")
    (tmp_path / "link").symlink_to("/etc")

    assert told(workspace.finish()) == [("build/kept", "add"), ("outside.tmp.py", "add")]


def test_what_the_program_has_told_itself_is_not_told_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    (tmp_path / "c").write_text("1")
    workspace.reported("./a")
    workspace.reported(str(tmp_path / "b"))

    assert told(workspace.finish()) == [("c", "add")]


def test_more_than_a_look_may_tell_is_counted(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    for number in range(module.EVENTS_A_LOOK_MAX + 23):
        (tmp_path / f"{number}").touch()
    events = workspace.finish()

    assert len(told(events)) == module.EVENTS_A_LOOK_MAX
    assert events[-1] == Telemetry(name="files_not_told", data={"count": 23})


def test_a_tree_that_is_too_large_is_not_watched_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES_MAX", 3)
    for number in range(4):
        (tmp_path / f"{number}").touch()

    workspace = Workspace(tmp_path)

    assert workspace.refusal == Telemetry(name="workspace_not_watched", data={"folder": str(tmp_path), "files_max": 3})
    assert (workspace.look(), workspace.finish()) == ([], [])


def test_a_tree_that_grows_too_large_says_so_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILES_MAX", 3)
    workspace = Workspace(tmp_path)

    for number in range(4):
        (tmp_path / f"{number}").touch()
    looked = workspace.look()
    workspace.close()

    assert looked == []
    assert workspace.finish() == [workspace.refusal]


def test_a_name_that_is_no_text_is_told_as_text(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    (tmp_path / os.fsdecode(b"a\xff\n")).write_text("1")

    assert told(workspace.finish()) == [("a\ufffd\n", "add")]


def test_a_folder_that_can_no_longer_be_read_has_lost_nothing(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").touch()
    workspace = Workspace(tmp_path)

    (tmp_path / "d").chmod(0)
    events = workspace.finish()
    (tmp_path / "d").chmod(0o700)

    assert events == []


@pytest.mark.slow
def test_a_file_is_told_while_the_turn_runs_once_it_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 0.1)
    (tmp_path / "gone").touch()
    workspace = Workspace(tmp_path)
    (tmp_path / "before").write_text("1")

    before = looked_until(workspace, lambda events: len(events) == 1)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "new").write_text("1")
    (tmp_path / "gone").unlink()
    live = looked_until(workspace, lambda events: len(events) == 2)
    workspace.close()

    assert (told(before), sorted(told(live))) == ([("before", "add")], [("d/new", "add"), ("gone", "delete")])
    assert workspace.finish() == []


@pytest.mark.slow
def test_turns_in_one_workspace_share_its_watcher_and_each_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 0.1)
    first, second = Workspace(tmp_path), Workspace(tmp_path)
    before = threads()

    looked = first.look(), second.look()
    watching = len(threads() - before)
    (tmp_path / "a").touch()
    live = [looked_until(workspace, lambda events: len(events) == 1) for workspace in (first, second)]
    first.close()
    (tmp_path / "b").touch()
    later = looked_until(second, lambda events: len(events) == 1)
    second.close()

    assert looked == ([], [])
    assert (watching, [told(events) for events in live], told(later)) == (1, [[("a", "add")]] * 2, [("b", "add")])


def test_without_a_watcher_everything_is_told_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    workspace = Workspace(tmp_path)

    (tmp_path / "a").touch()

    assert (workspace.look(), told(workspace.finish())) == ([], [("a", "add")])


def threads() -> set[str]:
    """All of this process, also those that Python does not know."""
    return set(os.listdir("/proc/self/task"))


def looked_until(workspace: Workspace, is_enough: Callable[[list[Event]], bool]) -> list[Event]:
    events: list[Event] = []
    end = time.monotonic() + 60
    while not is_enough(events) and time.monotonic() < end:
        events += workspace.look()
    return events


def shell(script: str, more: str = "") -> str:
    return f"[workflow.w]\ncommand = [\"sh\", \"-c\", '''{script}''']\n{more}\n"


async def files(worker: Working, run_id: str) -> list[tuple[str, str, str | None]]:
    events = [recorded.event() for recorded in await worker.events(run_id)]
    return [
        (e.path, "delete" if isinstance(e, FileDeleted) else str(e.kind), e.source)
        for e in events
        if isinstance(e, FileWritten | FileDeleted)
    ]


@pytest.mark.slow
async def test_a_write_in_the_turns_last_moment_is_told_before_its_end(tmp_path: Path) -> None:
    async with working(tmp_path, shell("rm old; echo new > made")) as worker:
        (tmp_path / "old").touch()
        run_id = await worker.queue("w")
        run = await worker.wait_rest(run_id)

        assert await files(worker, run_id) == [("made", "add", "workspace"), ("old", "delete", "workspace")]
        types = await worker.types(run_id)
        assert types.index("file_deleted") < types.index("turn_completed")
        assert run.files == 1


@pytest.mark.slow
async def test_a_file_is_told_long_before_the_turn_ends(tmp_path: Path) -> None:
    async with working(tmp_path, shell("echo > made; until [ -e stop ]; do sleep 0.05; done")) as worker:
        run_id = await worker.queue("w")
        recorded = await worker.wait_type(run_id, "file_written")
        (tmp_path / "stop").touch()
        await worker.wait_rest(run_id)

        assert recorded.event() == FileWritten(path="made", bytes=1, kind="add", source="workspace")


@pytest.mark.slow
async def test_a_file_that_the_format_or_a_telemetry_line_tells_is_told_once(tmp_path: Path) -> None:
    line = '{"runfold": {"type": "file_written", "path": "a", "bytes": 2}}'
    agent = f"echo by hand > notes.md; echo > unseen; cat {RECORDINGS / 'codex' / 'work.jsonl'}"
    text = (
        shell(f"echo 1 > a; echo 2 > b; echo '{line}'")
        + shell(agent, 'format = "codex"').replace("workflow.w", "workflow.agent")
        + shell(agent).replace("workflow.w", "workflow.recognised")
    )
    async with working(tmp_path, text) as worker:
        plain, agent_id, recognised = [await worker.queue(name) for name in ("w", "agent", "recognised")]
        await asyncio.gather(*(worker.wait_rest(run_id) for run_id in (plain, agent_id, recognised)))

        assert ("a", "None", "sentinel") in await files(worker, plain)
        assert [it for it in await files(worker, plain) if it[0] == "a"] == [("a", "None", "sentinel")]
        assert {it[2] for run_id in (agent_id, recognised) for it in await files(worker, run_id)} == {None}


@pytest.mark.slow
async def test_an_agents_other_files_are_told_where_the_workflow_wants_that(tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    change = {"type": "file_change", "status": "completed", "changes": [{"path": str(notes), "kind": "add"}]}
    line = json.dumps({"type": "item.completed", "item": change})
    script = f"echo 1 > {notes}; echo 2 > unseen; echo '{line}'; echo '{{\"type\":\"turn.completed\"}}'"
    async with working(tmp_path, shell(script, 'format = "codex"\nwatch_files = true')) as worker:
        run_id = await worker.queue("w")
        await worker.wait_rest(run_id)

        assert await files(worker, run_id) == [(str(notes), "add", None), ("unseen", "add", "workspace")]


@pytest.mark.slow
async def test_nothing_is_told_of_files_where_the_workflow_wants_none(tmp_path: Path) -> None:
    text = shell("echo > a", "watch_files = false") + shell("echo > b.o; echo > c", 'ignore_files = ["*.o"]').replace(
        "workflow.w", "workflow.some"
    )
    async with working(tmp_path, text, slots=1) as worker:
        none, some = await worker.queue("w"), await worker.queue("some")
        await worker.wait_rest(none)
        await worker.wait_rest(some)

        assert (await files(worker, none), await files(worker, some)) == ([], [("c", "add", "workspace")])


@pytest.mark.slow
async def test_steps_that_share_a_workspace_tell_each_file_once(tmp_path: Path) -> None:
    steps = "".join(
        f"[[workflow.w.steps]]\nid = '{name}'\ncommand = ['sh', '-c', 'echo > made-{name}; until [ -e made-a ] && "
        "[ -e made-b ]; do sleep 0.02; done']\n"
        for name in "ab"
    )
    async with working(tmp_path, f"[workflow.w]\n{steps}") as worker:
        run_id = await worker.queue("w")
        await worker.wait_rest(run_id)

        assert sorted(await files(worker, run_id)) == [("made-a", "add", "workspace"), ("made-b", "add", "workspace")]
