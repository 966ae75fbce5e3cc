"""Who may come in, for how long, and what somebody of another house is told."""

import pytest
from playwright.async_api import expect

from api.app import make_login_code
from tests.dashboard.screen import Screen
from tests.served import OTHER

pytestmark = pytest.mark.slow


async def test_a_login_link_is_good_once_and_says_so(desk: Screen) -> None:
    link = f"/login?code={make_login_code(desk.served.app)}"
    async with desk.another(logged_in=False) as first, desk.another(logged_in=False) as second:
        await first.show(link)
        await expect(first.page.get_by_role("heading", name="Runs")).to_be_visible()

        await second.show(link)
        await first.show(link)

        await expect(second.page.get_by_role("alert")).to_contain_text("used before, or is too old")
        await expect(second.page.get_by_label("Token")).to_be_visible()
        await expect(first.page.get_by_role("heading", name="Runs")).to_be_visible()


async def test_a_wrong_token_is_refused_with_where_the_right_one_is(desk: Screen) -> None:
    async with desk.another(logged_in=False) as stranger:
        await stranger.show("/costs")
        await stranger.page.get_by_label("Token").fill("guessed")
        await stranger.page.get_by_role("button", name="Log in").click()

        await expect(stranger.page.get_by_role("alert")).to_contain_text("`data/token` holds the first one")
        await stranger.page.get_by_label("Token").fill("admin-token")
        await stranger.page.get_by_role("button", name="Log in").click()
        await expect(stranger.page.get_by_role("heading", name="Costs")).to_be_visible()


async def test_a_log_out_and_a_token_that_ends_shut_every_tab_at_once(desk: Screen) -> None:
    made = await (await desk.served.ask("POST", "/api/tokens", json={"name": "brief", "role": "viewer"})).json()
    async with desk.another(logged_in=False) as guest:
        await guest.show("/runs")
        for end in ("log out", "revoke"):
            await guest.page.get_by_label("Token").fill(made["secret"])
            await guest.page.get_by_role("button", name="Log in").click()
            await expect(guest.page.get_by_text("Live", exact=True)).to_be_visible()
            beside = await guest.page.context.new_page()
            await beside.goto(f"{guest.address}/audit")
            await expect(beside.get_by_text("Live", exact=True)).to_be_visible()

            if end == "revoke":
                await desk.served.ask("DELETE", "/api/tokens/brief", json={})
            else:
                await guest.page.get_by_role("button", name="Log out").click()

            for tab in (guest.page, beside):
                await expect(tab.get_by_label("Token")).to_be_visible()
                await expect(tab.get_by_role("navigation")).to_have_count(0)
            await beside.close()


async def test_a_run_of_another_house_looks_like_one_that_never_was(desk: Screen) -> None:
    theirs = await desk.served.open_run(title="theirs", token=OTHER)
    never = "r_" + "a" * 26

    said: list[str] = []
    for run_id in (theirs, never):
        await desk.show(f"/runs/{run_id}")
        await expect(desk.page.get_by_role("alert")).to_contain_text("is not known")
        said.append((await desk.page.locator("main").inner_text()).replace(run_id, "RUN"))
    desk.problems.clear()  # The browser itself tells of a 404.

    assert said[0] == said[1]
