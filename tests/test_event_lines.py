"""A recorded event as the line that `events`, `replay` and `watch` print of it."""

from pathlib import Path

import msgspec
import pytest

from cli.lines import event_line
from eventstore.sqlite import SqliteLog
from runfold.events import Event, FileWritten, Message, NoteAdded, SubprocessOutput
from runfold.long_text import shorten
from tests.histories import new_event


async def line_of(tmp_path: Path, event: Event, *, is_emptied: bool = False, is_long: bool = False) -> str:
    log = await SqliteLog.open(tmp_path)
    made = new_event(event, at_us=1, tenant="default")
    if is_long:
        made = msgspec.structs.replace(made, data=shorten(made.data, 64 * 1024)[0])
    await log.append("r_a", [made], expected=0)
    recorded = await log.last("r_a")
    await log.close()
    assert recorded is not None
    return event_line(msgspec.structs.replace(recorded, data=None) if is_emptied else recorded)


async def test_a_text_that_is_kept_beside_the_log_is_shown_by_its_beginning(tmp_path: Path) -> None:
    line = await line_of(tmp_path, Message(text="word " * 30_000), is_long=True)

    assert "message              word word word" in line
    assert "blob" not in line


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (FileWritten(path="a.py"), "(redacted or cleaned)"),
        (SubprocessOutput(text="a"), "(redacted or cleaned)"),
        (NoteAdded(text="a"), "(redacted)"),
    ],
)
async def test_an_event_whose_data_is_gone_says_what_may_have_taken_it(tmp_path: Path, event: Event, says: str) -> None:
    assert (await line_of(tmp_path, event, is_emptied=True)).endswith(f" {says}")
