"""The dashboard's built files, and for every address of its pages the one page that draws them.

Where none is built, a small page stands there that lists the runs and says how to build it.
"""

from pathlib import Path

import msgspec
from aiohttp import web

from api.problems import CSP_DOCS, CSP_PAGE
from api.routes import Route
from api.sending import SentFile
from runfold.errors import NotFound

BUNDLE = Path(__file__).parent / "bundle"
_PLAIN = Path(__file__).parent / "static"
DOCS = "/api/docs"
PAGES = ("/", "/runs", "/runs/{run_id}", "/approvals", "/audit", "/compare", "/costs", "/admin", "/tokens", DOCS)
# A file's name holds the digest of its content: another content is another name.
_FOR_EVER = "public, max-age=31536000, immutable"


class AnyQuery(msgspec.Struct, frozen=True):
    """The page keeps its filters there; the server has no use for them."""


async def get_dashboard(request: web.Request) -> web.StreamResponse:
    page = BUNDLE / "index.html"
    if not page.is_file():
        return _plain("index.html", "text/html")
    policy = CSP_DOCS if request.path == DOCS else CSP_PAGE
    return SentFile(page, headers={"Content-Security-Policy": policy})


async def get_lost(_request: web.Request) -> web.StreamResponse:
    """What a person sees who opens an address at which nothing is; without a bundle, what programs are told."""
    page = BUNDLE / "index.html"
    if not page.is_file():
        raise web.HTTPNotFound
    return SentFile(page, status=404, headers={"Content-Security-Policy": CSP_PAGE})


async def get_asset(request: web.Request) -> web.StreamResponse:
    """A file of the bundle, compressed where its sibling is there. Raises NotFound."""
    name: str = request.match_info["name"]
    path = BUNDLE / "assets" / name
    # A name may hold an escaped slash; only files of this one folder are given out.
    if Path(name).name != name or not path.is_file():
        raise NotFound(f"the dashboard has no file `{name}`", hint="reload the page: it was built anew")
    return SentFile(path, headers={"Cache-Control": _FOR_EVER})


async def get_script(_request: web.Request) -> web.Response:
    """The script of the page that stands where no dashboard is built."""
    return _plain("app.js", "text/javascript")


def _plain(name: str, media_type: str) -> web.Response:
    return web.Response(
        text=(_PLAIN / name).read_text("utf-8"), content_type=media_type, headers={"Content-Security-Policy": CSP_PAGE}
    )


LOST = Route(
    method="GET",
    path="/{lost}",
    operation="page_lost",
    handler=get_lost,
    summary="The page of an unknown address",
    needs="open",
    query=AnyQuery,
    media_type="text/html",
    linked=True,
    described=False,
)
"""Not among the routes: it stands behind all of them."""
ROUTES: tuple[Route, ...] = (
    *(
        Route(
            method="GET",
            path=path,
            operation=f"page_{path}",
            handler=get_dashboard,
            summary="A page of the dashboard",
            needs="open",
            query=AnyQuery,
            media_type="text/html",
            linked=True,
            described=False,
        )
        for path in PAGES
    ),
    Route(
        method="GET",
        path="/assets/{name}",
        operation="dashboard_file",
        handler=get_asset,
        summary="A file of the dashboard",
        needs="open",
        media_type="application/octet-stream",
        described=False,
    ),
    Route(
        method="GET",
        path="/app.js",
        operation="page_script",
        handler=get_script,
        summary="The script of the page",
        needs="open",
        media_type="text/javascript",
        described=False,
    ),
)
