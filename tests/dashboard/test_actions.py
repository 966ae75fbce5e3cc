"""What an operator does on the pages, and what nobody else is offered."""

import pytest
from playwright.async_api import expect

from runfold.events import RunFailed
from tests.dashboard.screen import Screen
from tests.dashboard.stories import MINUTE, a_game, a_question, name, write
from tests.served import VIEWER

pytestmark = pytest.mark.slow


async def test_many_runs_are_cancelled_at_once_after_saying_which_can_be(desk: Screen) -> None:
    runs = [await desk.served.open_run(title=f"bulk {number}") for number in range(4)]
    await desk.served.control(runs[0], "complete")
    await desk.go("/runs?q=bulk")

    await desk.page.get_by_label("Select all that are read").check()
    await desk.page.get_by_role("button", name="Cancel …").click()
    dialog = desk.page.get_by_role("alertdialog")
    await expect(dialog).to_contain_text("Cancel 3 of 4 runs?")
    await expect(dialog.locator("[data-left]")).to_contain_text("bulk 0")
    await dialog.get_by_role("button", name="Cancel 3").click()

    await expect(desk.page.locator(".toast")).to_contain_text("3 runs are cancelled")
    await expect(desk.page.locator("tr.run [data-status=cancelled]")).to_have_count(3)
    await desk.page.get_by_label("Select bulk 1").check()
    await desk.page.get_by_role("button", name="Retry …").click()
    await dialog.get_by_role("button", name="Retry 1").click()
    await expect(desk.page.get_by_role("button", name="1 new run")).to_be_visible()


async def test_a_question_is_answered_on_the_page_of_its_run(desk: Screen) -> None:
    run_id = await a_question(desk.served.log, 0x701, ago=2 * MINUTE)
    await desk.go("/approvals")
    await expect(desk.page.locator("[data-approval=a1]")).to_contain_text("Go on?")
    await desk.page.get_by_role("link", name=run_id).click()
    await expect(desk.page.get_by_role("heading", name="Rewrite the parser")).to_be_visible()

    await desk.page.get_by_label("Comment").fill("worth it")
    await desk.page.get_by_role("button", name="Approve").click()

    await expect(desk.page.locator("header.head [data-status]")).to_have_text("Running")
    given = (await (await desk.served.ask("GET", f"/api/runs/{run_id}/approvals")).json())["items"][0]
    assert (given["status"], given["comment"], given["granted_usd"]) == ("granted", "worth it", 4.0)


async def test_a_question_is_denied_only_after_another(desk: Screen) -> None:
    run_id = await a_question(desk.served.log, 0x702, ago=2 * MINUTE)
    await desk.go(f"/runs/{run_id}")

    await desk.page.get_by_role("button", name="Deny").click()
    await desk.page.get_by_role("alertdialog").get_by_role("button", name="Deny it").click()

    await expect(desk.page.locator("[data-approval=a1]")).to_have_count(0)
    given = (await (await desk.served.ask("GET", f"/api/runs/{run_id}/approvals")).json())["items"][0]
    assert given["status"] == "denied"


async def test_a_step_is_run_again_with_all_that_rests_on_it(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x703, ago=2 * MINUTE)
    await desk.go(f"/runs/{run_id}?tab=steps&step=tileset")

    await desk.page.get_by_role("button", name="Rerun").click()
    dialog = desk.page.get_by_role("alertdialog")
    await dialog.get_by_label("Reason").fill("the colours changed")
    await dialog.get_by_role("button", name="Run it again").click()

    await expect(desk.page.get_by_role("dialog")).to_contain_text("Needs rerun: the colours changed")
    await desk.page.get_by_role("dialog").get_by_role("button", name="Close").click()
    await expect(desk.page.locator("[data-step=tileset]")).to_contain_text("Needs rerun")


async def test_a_command_that_somebody_typed_is_shown_to_be_typed_again(desk: Screen) -> None:
    run_id = name(0x704)
    ended = RunFailed(reason_code="EXIT_NONZERO")
    await write(desk.served.log, run_id, 60, [(9, ended)], driver="here", title="pytest -q", command=("pytest", "-q"))
    await desk.go(f"/runs/{run_id}")

    await desk.page.get_by_role("button", name="Retry", exact=True).click()

    dialog = desk.page.get_by_role("alertdialog")
    await expect(dialog).to_contain_text(f"runfold retry {run_id}")
    await expect(dialog.get_by_role("button", name="Retry the whole run")).to_have_count(0)
    await dialog.get_by_role("button", name="Close").click()


async def test_a_wish_that_is_refused_is_taken_back_and_says_why(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="refused")
    await desk.go(f"/runs/{run_id}")
    await expect(desk.page.get_by_text("Live", exact=True)).to_be_visible()

    async def too_late(route: object) -> None:
        await desk.served.control(run_id, "complete")
        await route.continue_()  # type: ignore[attr-defined]

    await desk.page.route("**/control", too_late)
    await desk.page.get_by_role("button", name="Pause").click()

    await expect(desk.page.locator(".toast[role=alert]", has_text="completed")).to_be_visible()
    await expect(desk.page.locator("header.head [data-status]")).to_have_text("Completed")
    await desk.page.unroute("**/control")
    desk.problems.clear()  # The browser itself tells of a 409.


async def test_what_people_write_on_a_run_is_kept_and_shown(desk: Screen) -> None:
    run_id = await desk.served.open_run(title="draft", labels={"branch": "main", "old": "1"})
    await desk.go(f"/runs/{run_id}?tab=history")

    await desk.page.get_by_role("button", name="Edit, or add a note").click()
    dialog = desk.page.get_by_role("alertdialog")
    await dialog.get_by_label("Title").fill("final")
    await dialog.get_by_role("button", name="Remove label old").click()
    await dialog.get_by_role("button", name="Add a label").click()
    await dialog.get_by_label("Name of label 2").fill("team")
    await dialog.get_by_label("Value of label 2").fill("arcade")
    await dialog.get_by_label("Note").fill("keep this one")
    await dialog.get_by_role("button", name="Save").click()

    await expect(desk.page.get_by_role("heading", name="final")).to_be_visible()
    await expect(desk.page.get_by_label("Notes")).to_contain_text("keep this one")
    run = await (await desk.served.ask("GET", f"/api/runs/{run_id}")).json()
    assert (run["title"], run["labels"]) == ("final", {"branch": "main", "team": "arcade"})


async def test_who_may_only_look_is_offered_no_action(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x705, ago=2 * MINUTE)
    await a_question(desk.served.log, 0x706, ago=2 * MINUTE)
    async with desk.another() as viewer:
        await viewer.page.get_by_role("button", name="Log out").click()
        await viewer.page.get_by_label("Token").fill(VIEWER)
        await viewer.page.get_by_role("button", name="Log in").click()
        await viewer.show(f"/runs/{run_id}?tab=steps&step=tileset")
        await expect(viewer.page.get_by_role("dialog")).to_contain_text("Completed")

        for action in ("Pause", "Cancel", "Retry", "Rerun", "Reset", "Edit, or add a note"):
            await expect(viewer.page.get_by_role("button", name=action)).to_have_count(0)
        await viewer.show(f"/runs/{name(0x706)}")
        await expect(viewer.page.get_by_text("An operator can answer it")).to_be_visible()
        await expect(viewer.page.get_by_role("link", name="Admin")).to_have_count(0)
        await viewer.show("/runs")
        await expect(viewer.page.locator(f"[data-run={run_id}]")).to_be_visible()
        await expect(viewer.page.get_by_role("checkbox")).to_have_count(0)


async def test_two_moments_of_a_run_are_compared(desk: Screen) -> None:
    run_id = await a_game(desk.served.log, 0x707, ago=30 * MINUTE, ends="failed")
    await desk.go(f"/runs/{run_id}?at=20")

    await desk.page.get_by_role("link", name="Compare with now").click()

    await expect(desk.page.locator("[data-after]")).to_contain_text("events that are alike")
    await expect(desk.page.locator("[data-figure=turns]")).to_contain_text("+1")
    await expect(desk.page.locator("[data-step=bundle_game]")).to_contain_text("Failed")


async def test_a_token_is_made_shown_once_and_revoked_by_an_admin(desk: Screen) -> None:
    await desk.go("/tokens")
    await expect(desk.page.get_by_text("No token was made yet")).to_be_visible()

    await desk.page.get_by_label("Name").first.fill("ci")
    await desk.page.get_by_label("Make a token").get_by_label("Role").select_option("viewer")
    await desk.page.get_by_role("button", name="Make a token").click()

    secret = await desk.page.get_by_label("The new token").locator("code").inner_text()
    assert (await desk.served.ask("GET", "/session", token=secret)).status == 200
    await expect(desk.page.locator("[data-token=ci]")).to_contain_text("viewer")
    await desk.page.reload()
    await expect(desk.page.locator("[data-token=ci]")).to_be_visible()
    await expect(desk.page.get_by_text(secret)).to_have_count(0)
    await desk.page.get_by_role("button", name="Revoke ci").click()
    await desk.page.get_by_role("alertdialog").get_by_role("button", name="Revoke the token").click()
    await expect(desk.page.locator("[data-token=ci]")).to_contain_text("revoked")
    assert (await desk.served.ask("GET", "/session", token=secret)).status == 401


async def test_tokens_are_found_by_text_role_and_status_and_the_question_is_in_the_address(desk: Screen) -> None:
    for token, role in (("nightly", "operator"), ("reader", "viewer")):
        await desk.served.ask("POST", "/api/tokens", json={"name": token, "role": role})
    rows = desk.page.locator("[data-token]")
    await desk.go("/tokens")
    await expect(desk.page.locator("[data-token=reader]")).to_be_visible()

    await desk.page.get_by_label("Of role").select_option("operator")
    await expect(desk.page.locator("[data-token=reader]")).to_have_count(0)
    await desk.page.get_by_label("Search").fill("night")
    await desk.page.get_by_label("Search").press("Enter")
    await expect(rows).to_have_count(1)
    await desk.page.reload()
    await expect(rows).to_have_count(1)
    await expect(rows).to_have_attribute("data-token", "nightly")
    await desk.page.get_by_role("button", name="Expired").click()

    await expect(desk.page.get_by_text("No token fits")).to_be_visible()
    await desk.page.get_by_role("button", name="Show all tokens").click()
    await expect(desk.page.locator("[data-token=reader]")).to_be_visible()
