"""Every method of every route stands behind the same door; a route that nobody listed here fails."""

import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.app import ROUTES, make_login_code
from api.dashboard import PAGES
from runfold.envelope import time_text
from tests.served import VIEWER, Served, serving

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OPEN = {
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/login"),
    ("POST", "/session"),
    ("DELETE", "/session"),
    ("GET", "/app.js"),
    ("GET", "/assets/{name}"),
    *(("GET", path) for path in PAGES),
}
GUARDED = {
    ("GET", "/session"): "viewer",
    ("POST", "/session/code"): "viewer",
    ("GET", "/api/tokens"): "admin",
    ("POST", "/api/tokens"): "admin",
    ("DELETE", "/api/tokens/{token}"): "admin",
    ("GET", "/api/runs"): "viewer",
    ("POST", "/api/runs"): "operator",
    ("POST", "/api/runs/continuous"): "operator",
    ("GET", "/api/workflows"): "viewer",
    ("GET", "/api/budgets"): "viewer",
    ("GET", "/api/workflows/{name}/estimate"): "viewer",
    ("POST", "/api/runs/external"): "operator",
    ("GET", "/api/runs/{run_id}"): "viewer",
    ("DELETE", "/api/runs/{run_id}"): "operator",
    ("GET", "/api/runs/{run_id}/status"): "viewer",
    ("GET", "/api/runs/{run_id}/events"): "viewer",
    ("POST", "/api/runs/{run_id}/events"): "operator",
    ("GET", "/api/runs/{run_id}/history"): "viewer",
    ("GET", "/api/runs/{run_id}/report"): "viewer",
    ("GET", "/api/runs/{run_id}/why"): "viewer",
    ("GET", "/api/runs/{run_id}/diff/{other_id}"): "viewer",
    ("GET", "/api/runs/{run_id}/stream"): "viewer",
    ("GET", "/api/runs/{run_id}/output"): "viewer",
    ("GET", "/api/runs/{run_id}/artifacts/{artifact}"): "viewer",
    ("PUT", "/api/runs/{run_id}/artifacts/{artifact}"): "operator",
    ("POST", "/api/runs/{run_id}/heartbeat"): "operator",
    ("PATCH", "/api/runs/{run_id}"): "operator",
    ("POST", "/api/runs/{run_id}/notes"): "operator",
    ("POST", "/api/runs/bulk"): "operator",
    ("POST", "/api/runs/{run_id}/control"): "operator",
    ("GET", "/api/audit"): "viewer",
    ("GET", "/api/costs"): "viewer",
    ("GET", "/api/runs/{run_id}/steps"): "viewer",
    ("GET", "/api/runs/{run_id}/steps/{step}"): "viewer",
    ("GET", "/api/runs/{run_id}/steps/{step}/artifacts"): "viewer",
    ("GET", "/api/runs/{run_id}/artifacts"): "viewer",
    ("GET", "/api/runs/{run_id}/timeline"): "viewer",
    ("GET", "/api/runs/{run_id}/timeline/overview"): "viewer",
    ("GET", "/api/admin/costs"): "root",
    ("GET", "/api/admin/audit"): "root",
    ("GET", "/api/admin/audit/counts"): "root",
    ("GET", "/api/admin/runs"): "root",
    ("GET", "/api/admin/runs/stats"): "root",
    ("GET", "/api/admin/queue"): "root",
    ("GET", "/api/admin/views"): "root",
    ("GET", "/api/admin/server"): "root",
    ("GET", "/api/admin/tenants"): "root",
    ("GET", "/api/admin/verified"): "root",
    ("GET", "/metrics"): "root",
    ("GET", "/api/audit/counts"): "viewer",
    ("GET", "/api/runs/{run_id}/events/{event}/causes"): "viewer",
    ("POST", "/api/runs/{run_id}/steps"): "operator",
    ("POST", "/api/runs/{run_id}/steps/{step}"): "operator",
    ("POST", "/api/runs/{run_id}/retry"): "operator",
    ("GET", "/api/approvals"): "viewer",
    ("GET", "/api/runs/{run_id}/approvals"): "viewer",
    ("POST", "/api/runs/{run_id}/approvals"): "operator",
    ("POST", "/api/runs/{run_id}/approvals/{approval_id}"): "operator",
    ("GET", "/api/stream"): "viewer",
    ("GET", "/api/openapi.json"): "viewer",
}
# What can be asked for with GET can be asked for with HEAD, by the same people.
OPEN.update([("HEAD", path) for method, path in OPEN if method == "GET"])
GUARDED.update({("HEAD", path): role for (method, path), role in GUARDED.items() if method == "GET"})
PATHS = sorted(
    {path for _, path in GUARDED} | {path for _, path in OPEN} | {"/nowhere", "/metrics/x", "/app.js/", "/x.js"}
)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


def test_every_route_is_listed_here(tmp_path: Path) -> None:
    needs = {(route.method, route.path): route.needs for route in ROUTES}
    needs |= {("HEAD", path): needed for (method, path), needed in needs.items() if method == "GET"}

    assert needs == {**dict.fromkeys(OPEN, "open"), **GUARDED}


async def test_the_router_holds_nothing_beside_the_table(served: Served) -> None:
    registered = {(route.method, route.resource.canonical) for route in served.app.router.routes() if route.resource}

    assert registered == OPEN | set(GUARDED)


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_valid_token_only_the_open_routes_answer(served: Served, path: str) -> None:
    for method in METHODS:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic YTpi"},
            {"Cookie": f"{served.cookie}=x"},
        ):
            response = await served.client.request(method, _real(path), headers=headers, allow_redirects=False)
            if (method, path) in OPEN:
                assert response.status in (200, 204, 303, 400, 401)
            else:
                assert response.status == 401, (method, path)
                assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:8321"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
    ],
)
async def test_a_wrong_host_or_a_foreign_page_gets_nothing_anywhere(
    served: Served, path: str, headers: dict[str, str], status: int
) -> None:
    for method in METHODS:
        response = await served.ask(method, _real(path), headers=headers)

        assert response.status == status, (method, path)


async def test_links_from_other_sites_lead_to_the_page_and_the_login_only(served: Served) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}

    answers = [(await served.ask("GET", path, headers=link)).status for path in ("/", "/login", "/api/runs", "/app.js")]

    assert answers == [200, 303, 403, 403]


async def test_the_page_of_this_server_may_ask_it(served: Served) -> None:
    origin = f"http://{served.client.host}:{served.client.port}"

    response = await served.ask("GET", "/api/runs", headers={"Origin": origin, "Sec-Fetch-Site": "same-origin"})

    assert response.status == 200


async def test_a_viewer_looks_and_touches_nothing(served: Served) -> None:
    run_id = await served.open_run(title="a")

    for (method, path), role in GUARDED.items():
        if path.endswith("stream"):
            continue
        response = await served.ask(
            method,
            _real(path, run_id).replace("{name}", "a").replace("{artifact}", "a").replace("{token}", "a"),
            token=VIEWER,
            **({} if method in ("GET", "HEAD") else {"json": {}}),
        )
        # What is not there is said to whoever may look.
        assert response.status in ((200, 201, 404) if role == "viewer" else (403,)), (method, path)
        if response.status == 403 and role != "root":
            assert (await response.text()).find(f"it needs role `{role}`") > 0 or method == "HEAD"


async def test_asking_for_the_head_of_a_login_link_does_not_use_it_up(served: Served) -> None:
    code = make_login_code(served.app)

    head = await served.client.head(f"/login?code={code}", allow_redirects=False)
    after = await served.client.get(f"/login?code={code}", allow_redirects=False)

    assert (head.status, after.status) == (303, 303)
    assert served.cookie not in head.cookies
    assert served.cookie in after.cookies


async def test_only_an_admin_of_all_tenants_may_name_one(served: Served) -> None:
    response = await served.ask("GET", "/api/runs", token=VIEWER, headers={"Runfold-Tenant": "other"})

    assert response.status == 403


async def test_a_body_that_is_not_json_is_refused(served: Served) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        for method, path in [*GUARDED, *OPEN]:
            response = await served.ask(method, _real(path), data=b"{}", headers={"Content-Type": content_type})
            assert response.status == 415, (method, path)


async def test_every_answer_carries_the_strict_headers_and_no_server_name(served: Served) -> None:
    for path in PATHS:
        response = await served.ask("GET", _real(path))

        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"
        assert "Server" not in response.headers
        response.close()


async def test_a_login_code_is_good_once_and_its_cookie_opens_the_api(served: Served) -> None:
    code = make_login_code(served.app)

    first = await served.client.get(f"/login?code={code}", allow_redirects=False)
    second = await served.client.get(f"/login?code={code}", allow_redirects=False)
    cookie = first.cookies[served.cookie]
    runs = await served.client.get("/api/runs")
    out = await served.client.delete("/session", headers={"Cookie": f"{served.cookie}={cookie.value}"})
    after = await served.client.get("/api/runs", headers={"Cookie": f"{served.cookie}={cookie.value}"})

    assert (first.status, first.headers["Location"], second.status) == (303, "/", 401)
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert (runs.status, out.status, after.status) == (200, 204, 401)


async def test_a_token_logs_a_browser_in_with_its_own_role(served: Served) -> None:
    wrong = await served.client.post("/session", json={"token": "wrong"})
    right = await served.client.post("/session", json={"token": VIEWER})
    refused = await served.client.post("/api/runs/external", json={})

    assert (wrong.status, right.status, refused.status) == (401, 204, 403)


def _real(path: str, run_id: str = "r_" + "a" * 26) -> str:
    return path.replace("{run_id}", run_id).replace("{step}", "a").replace("{approval_id}", "a")


@pytest.mark.slow
def test_the_wheel_holds_the_page_that_stands_where_no_dashboard_is_built(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=root, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")

    names = set(zipfile.ZipFile(wheel).namelist())

    assert {f"api/static/{path.name}" for path in (root / "api" / "static").iterdir()} <= names
    assert not [name for name in names if name.startswith(("tests/", "bench/", "data/"))]


async def test_the_page_runs_only_scripts_of_this_server(served: Served) -> None:
    for path in ("/", "/app.js"):
        response = await served.client.get(path)
        parts = [part.strip().partition(" ") for part in response.headers["Content-Security-Policy"].split(";")]
        policy = {name: value for name, _, value in parts}
        assert policy["default-src"] == "'none'"
        assert policy.get("script-src", "'self'") == "'self'"
        assert "unsafe" not in response.headers["Content-Security-Policy"]


async def test_servers_of_one_host_do_not_log_each_other_s_browsers_out(tmp_path: Path) -> None:
    async with serving(tmp_path / "one") as one, serving(tmp_path / "two") as two:
        browser: dict[str, str] = {}
        for server in (one, two):
            code = make_login_code(server.app)
            answer = await server.client.get("/login", params={"code": code}, allow_redirects=False)
            browser |= {name: morsel.value for name, morsel in answer.cookies.items()}
            server.client.session.cookie_jar.clear()
        cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in browser.items())}
        answers = [await server.client.get("/api/runs", headers=cookies) for server in (one, two)]

        assert [answer.status for answer in answers] == [200, 200]


async def test_a_browser_learns_whose_session_it_is_and_until_when(served: Served) -> None:
    first = await served.client.get("/login", params={"code": make_login_code(served.app)}, allow_redirects=False)
    cookie = {"Cookie": f"{served.cookie}={first.cookies[served.cookie].value}"}

    by_cookie = await (await served.client.get("/session", headers=cookie)).json()
    by_token = await (await served.ask("GET", "/session", token=VIEWER)).json()

    assert by_cookie["expires_at"] > time_text(time.time_ns() // 1_000)
    assert {**by_cookie, "expires_at": None} == {
        "tenant": "default", "role": "admin", "actor": "user:admin", "all_tenants": True, "expires_at": None
    }  # fmt: skip
    assert by_token == {
        "tenant": "default", "role": "viewer", "actor": "user:viewer", "all_tenants": False, "expires_at": None
    }  # fmt: skip


async def test_an_unknown_address_opens_for_nobody_what_is_not_the_page(served: Served) -> None:
    asked = {"Accept": "text/html,*/*"}

    page = await served.client.get("/nowhere", headers=asked)
    elsewhere = await served.client.get("/nowhere", headers={**asked, "Host": "evil.example"})
    program = await served.client.get("/nowhere")
    known = await served.client.get("/api/runs", headers=asked)
    sent = await served.client.post("/nowhere", headers=asked, json={})

    assert [it.status for it in (elsewhere, program, known, sent)] == [421, 401, 401, 401]
    assert page.status == 404
