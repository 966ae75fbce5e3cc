"""Many runs at once: previewed, done to those that were seen, answered one by one, and safe to send again."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.served import OTHER, VIEWER, Served, serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


async def bulk(served: Served, **body: Any) -> Any:
    headers = {"Idempotency-Key": body.pop("key")} if "key" in body else {}
    response = await served.ask("POST", "/api/runs/bulk", headers=headers, json=body)
    assert response.status == 200, await response.text()
    return await response.json()


async def test_a_preview_says_what_would_become_of_each_and_changes_nothing(served: Served) -> None:
    running = [await served.open_run(title=f"run {number}", labels={"team": "core"}) for number in range(3)]
    over = await served.open_run(title="over", labels={"team": "core"})
    await served.control(over, "complete")
    await served.open_run(title="run of others", labels={"team": "core"}, token=OTHER)
    before = (await served.log.bounds()).last

    preview = await bulk(served, action="cancel", dry_run=True, filter={"label": "team=core"})

    outcomes = {item["id"]: item["outcome"] for item in preview["items"]}
    assert outcomes == {**dict.fromkeys(running, "would"), over: "refused"}
    assert (preview["matched"], preview["counts"]) == (4, {"would": 3, "refused": 1})
    refused = next(item for item in preview["items"] if item["id"] == over)
    assert (refused["code"], refused["detail"]) == ("already_final", f"run `{over}` is already completed")
    assert f"runfold retry {over}" in refused["hint"]
    assert (await served.log.bounds()).last == before


async def test_what_the_preview_promised_is_what_is_done(served: Served) -> None:
    ids = [await served.open_run(title=f"run {number}") for number in range(20)]
    for run_id in ids[:5]:
        await served.control(run_id, "complete")
    for run_id in ids[5:8]:
        await served.control(run_id, "cancel")

    preview = await bulk(served, action="cancel", dry_run=True, ids=ids)
    done = await bulk(served, action="cancel", ids=ids, reason="enough")

    assert [item["id"] for item in done["items"]] == ids
    assert preview["counts"] == {"refused": 5, "already": 3, "would": 12}
    assert done["counts"] == {"refused": 5, "already": 3, "done": 12}
    statuses = Counter(item["status"] for item in (await (await served.ask("GET", "/api/runs")).json())["items"])
    assert statuses == {"completed": 5, "cancelled": 15}


async def test_many_retries_sent_again_with_their_key_open_no_second_run(served: Served) -> None:
    ids = [await served.open_run(title=f"run {number}") for number in range(3)]
    for run_id in ids[:2]:
        await served.control(run_id, "fail")

    preview = await bulk(served, action="retry", dry_run=True, ids=ids)
    first = await bulk(served, action="retry", ids=ids, key="k")
    again = await bulk(served, action="retry", ids=ids, key="k")
    total = (await (await served.ask("GET", "/api/runs")).json())["total"]

    assert preview["counts"] == {"would": 2, "refused": 1}
    assert first == again
    new = [item["new_run_id"] for item in first["items"]]
    assert new[2] is None
    assert len(set(new[:2])) == 2
    assert total == 5


async def test_an_answer_sent_again_is_the_first_one_wherever_the_runs_are_now(served: Served) -> None:
    ids = [await served.open_run(title=f"run {number}") for number in range(3)]

    first = await bulk(served, action="pause", ids=ids, key="k")
    for run_id in ids:
        await served.control(run_id, "cancel")
    again = await bulk(served, action="pause", ids=ids, key="k")

    assert first == again
    assert first["counts"] == {"done": 3}
    assert {item["status"] for item in first["items"]} == {"paused"}


async def test_a_foreign_run_among_others_looks_like_an_unknown_one(served: Served) -> None:
    mine, foreign = await served.open_run(title="a"), await served.open_run(title="secret", token=OTHER)
    unknown = "r_" + "a" * 26

    for dry_run in (True, False):
        answer = await bulk(served, action="cancel", ids=[mine, foreign, unknown], dry_run=dry_run)
        _, theirs, none = answer["items"]

        assert {**theirs, "id": "", "detail": theirs["detail"].replace(foreign, unknown)} == {**none, "id": ""}
        assert (theirs["outcome"], theirs["code"], theirs["title"]) == ("refused", "not_found", "")


@pytest.mark.parametrize(
    "body",
    [
        {"action": "cancel"},
        {"action": "delete", "ids": ["r_a"]},
        {"action": "cancel", "ids": [f"r_{number}" for number in range(201)]},
        {"action": "cancel", "filter": {}},
        {"action": "cancel", "filter": {}, "ids": ["r_a"], "dry_run": True},
        {"action": "cancel", "filter": {"created_after": "yesterday"}, "dry_run": True},
    ],
)
async def test_what_is_not_bounded_or_was_not_previewed_is_refused_whole(served: Served, body: dict[str, Any]) -> None:
    run_id = await served.open_run(title="a")

    response = await served.ask("POST", "/api/runs/bulk", json=body)

    assert response.status == 400
    assert (await (await served.ask("GET", f"/api/runs/{run_id}")).json())["status"] == "running"


async def test_a_viewer_may_not_even_preview(served: Served) -> None:
    response = await served.ask("POST", "/api/runs/bulk", token=VIEWER, json={"action": "cancel", "ids": ["r_a"]})

    assert (response.status, (await response.json())["hint"]) == (403, "it needs role `operator`")
