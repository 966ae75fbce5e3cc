"""Who stands where others stand shares their look at the log, and finds the next pages already there."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from eventstore.framing import Framed
from eventstore.looking import AHEAD_PAGES, LOOKS_MAX, Looks


class History:
    """Pages of ten events each, without an end; `asked`: where somebody has looked."""

    def __init__(self, pages: int = 1) -> None:
        self._pages = pages
        self.asked: list[int] = []

    async def look(self, after: int) -> list[Framed]:
        self.asked.append(after)
        await asyncio.sleep(0)
        return [
            Framed(content=b"", scanned_to=end, version=end, is_marked=False, is_full=True, rows=10)
            for end in range(after + 10, after + 10 * self._pages + 1, 10)
        ]


async def test_all_who_stand_at_one_place_share_one_look() -> None:
    looks, history = Looks[Framed](), History()

    found = await asyncio.gather(*(looks.page(0, "all", history.look) for _ in range(5)))

    assert [page.scanned_to for page in found] == [10] * 5
    assert history.asked == [0]


async def test_pages_that_one_look_has_found_are_there_for_who_comes_to_them() -> None:
    looks, history = Looks[Framed](), History(pages=AHEAD_PAGES)
    place = 0
    for _ in range(AHEAD_PAGES):
        place = (await looks.page(place, "all", history.look)).scanned_to

    assert place == 10 * AHEAD_PAGES
    assert history.asked == [0]


async def test_the_next_look_begins_before_somebody_waits_for_it_and_no_second_one_beside_it() -> None:
    looks, history = Looks[Framed](), History()
    first = await looks.page(0, "all", history.look)

    looks.ahead(first, "all", history.look)
    looks.ahead(first, "all", history.look)
    await looks.page(10, "all", history.look)

    assert history.asked == [0, 10]


async def test_what_was_looked_for_before_the_log_moved_is_looked_for_anew() -> None:
    looks, history = Looks[Framed](), History(pages=2)
    coming = asyncio.create_task(looks.page(0, "all", history.look))
    await asyncio.sleep(0)

    looks.forget()
    await coming
    await looks.page(10, "all", history.look)

    assert history.asked == [0, 10]


async def test_pages_of_many_places_are_let_go_again() -> None:
    looks, history = Looks[Framed](), History()
    for place in range(0, 10 * LOOKS_MAX * 2, 10):
        await looks.page(place, "all", history.look)

    await looks.page(0, "all", history.look)

    assert history.asked.count(0) == 2


@pytest.mark.slow
def test_who_reads_first_after_a_start_does_not_wait_for_what_checks_events(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from eventstore.sqlite import SqliteLog\n"
        "async def main():\n"
        "    log = await SqliteLog.open(pathlib.Path(sys.argv[1]))\n"
        "    print('eventstore.proof.linking' in sys.modules)\n"
        "    await log.close()\n"
        "asyncio.run(main())\n"
    )

    said = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)

    assert said.stdout == "True\n"
