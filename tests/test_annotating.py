"""Titles, labels and notes: written on any run, by whoever may act, and only what is new makes an event."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runfold import commands as c
from runfold.annotating import KEY_CHARACTERS_MAX
from runfold.decide import decide
from runfold.errors import BadRequest, NotAllowed
from runfold.events import LabelChanged, NoteAdded, RunQueued, TitleChanged
from runfold.evolve import LABELS_MAX, evolve
from runfold.state import Run, new_run
from tests.served import Served, serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


def run_with(labels: dict[str, str]) -> Run:
    return evolve(new_run("r_a"), RunQueued(title="old", labels=labels), at_us=1)


def test_only_what_is_new_is_written_and_what_goes_makes_room_for_what_comes() -> None:
    full = {f"k{number:02}": "v" for number in range(LABELS_MAX)}
    labels = {"new": "v", "k00": None, "k01": "v", "k02": "w", "never": None}

    events = decide(run_with(full), c.Annotate(title="new", labels=labels, note="n"), 2)
    after = run_with(full)
    for event in events:
        after = evolve(after, event, at_us=2)

    assert set(events) == {
        TitleChanged(title="new"),
        LabelChanged(key="k00", value=None),
        LabelChanged(key="k02", value="w"),
        LabelChanged(key="new", value="v"),
        NoteAdded(text="n"),
    }
    assert after.title == "new"
    assert after.labels == {**{key: "v" for key in full if key != "k00"}, "k02": "w", "new": "v"}
    assert decide(after, c.Annotate(title="new", labels=labels), 3) == ()


def test_a_label_too_many_is_refused_and_nothing_of_the_rest_is_written() -> None:
    full = {f"k{number:02}": "v" for number in range(LABELS_MAX)}

    with pytest.raises(NotAllowed, match=f"more than {LABELS_MAX} labels"):
        decide(run_with(full), c.Annotate(title="new", labels={"one": "more"}), 2)


@pytest.mark.parametrize("key", ["", "a=b", "a\nb", "k" * (KEY_CHARACTERS_MAX + 1)])
def test_a_key_that_no_filter_could_name_is_refused(key: str) -> None:
    with pytest.raises(BadRequest, match="no key of a label"):
        decide(run_with({}), c.Annotate(labels={key: "v"}), 2)


async def test_a_run_that_is_over_is_found_by_the_label_it_gets(served: Served) -> None:
    run_id = await served.open_run(title="a", labels={"team": "core", "old": "x"})
    await served.control(run_id, "complete")
    body: dict[str, Any] = {"title": "nightly", "labels": {"keep": "yes", "old": None}, "note": "looked at"}

    changed = await served.ask("PATCH", f"/api/runs/{run_id}", json=body)
    noted = await served.ask("POST", f"/api/runs/{run_id}/notes", json={"text": "fine"})
    found = await (await served.ask("GET", "/api/runs?label=keep=yes&q=nightly")).json()
    events = await (await served.ask("GET", f"/api/runs/{run_id}/events?type=note_added")).json()

    assert (changed.status, noted.status) == (200, 201)
    assert [(item["id"], item["status"], item["title"]) for item in found["items"]] == [
        (run_id, "completed", "nightly")
    ]
    assert found["items"][0]["labels"] == {"team": "core", "keep": "yes"}
    assert [event["data"]["text"] for event in events["items"]] == ["looked at", "fine"]


@pytest.mark.parametrize(
    "body", [{}, {"titel": "a"}, {"labels": {"a": 1}}, {"title": "a" * 1_001}, {"labels": {"a=b": "c"}}]
)
async def test_a_bad_change_is_refused_and_leaves_nothing(served: Served, body: dict[str, Any]) -> None:
    run_id = await served.open_run(title="a")
    before = (await served.log.bounds()).last

    response = await served.ask("PATCH", f"/api/runs/{run_id}", json=body)

    assert response.status == 400
    assert (await served.log.bounds()).last == before
