"""`runfold replay --limits FILE`: what other limits would have done to the runs that are recorded here."""

from collections.abc import Iterator
from pathlib import Path

from cli.data_folder import need_folder, prepare_folder
from cli.reading import print_json
from cli.screen import cost, next_command, plain, short_ids, table, talk
from cli.settings import Settings
from cli.times import moment
from eventstore.log_file import open_reader
from eventstore.reading import read_page
from runfold.backtest import Backtest, WouldStop, backtest
from runfold.envelope import Recorded, moment_us
from runfold.errors import BadRequest, InvalidSetting
from runfold.limits import words
from runfold.policy import parse_policy


def show_backtest(settings: Settings, path: Path, *, since: str | None, as_json: bool) -> None:
    """Print which runs would have stopped, where, and what that would have saved. Nothing is changed."""
    need_folder(settings, "replay --limits")
    try:
        policy = parse_policy(path.read_text(encoding="utf-8"), file=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"`{path}` cannot be read: {error}", hint="give a file with `[limits]`") from error
    prepare_folder(settings.data)
    found = backtest(policy, _events(settings.data), since_us=0 if since is None else _since_us(since))
    if as_json:
        print_json(found)
    else:
        _show(found)


def _since_us(text: str) -> int:
    """`7d` ago, or a time."""
    try:
        return moment_us(moment(text))
    except (ValueError, OverflowError):
        raise BadRequest(f"`{text[:80]}` is no time", hint="write 7d, 12h, or 2026-01-31T12:00:00Z") from None


def _events(data: Path) -> Iterator[Recorded]:
    connection = open_reader(data)
    try:
        after = 0
        while (page := read_page(connection, after=after, kept=True)).events:
            yield from page.events
            after = page.scanned_to
    finally:
        connection.close()


def _show(found: Backtest) -> None:
    if found.items:
        ids = short_ids([item.run_id for item in found.items])
        header = ("RUN", "ENDED", "AT", "EVENT", "SPENT", "SAVED", "LIMIT")
        table(header, [_row(item, ids[item.run_id]) for item in found.items])
    of_cost = "" if found.spent_usd is None else f" of {cost(found.spent_usd)}"
    talk(f"{found.stopped} of {found.runs} runs would have stopped; {cost(found.saved_usd)}{of_cost} saved")
    completed = {item.run_id for item in found.items if item.status == "completed"}
    if completed:
        talk(f"note: {len(completed)} of them completed in truth")
    if found.items:
        next_command(f"runfold status {found.items[0].run_id} --at {found.items[0].position}")


def _row(item: WouldStop, run: str) -> tuple[str, ...]:
    used = "no known price" if item.reason == "price_unknown" else words(item.limit, item.actual, item.threshold)
    whose = "" if item.scope == "run" else f"{item.scope} "
    asks = " (asks)" if item.on_exceed == "ask" else ""
    what = plain(f"{whose}{item.limit} {used}{asks}", 60)
    return (
        run,
        item.status,
        item.at[:19],
        f"{item.position} {item.type}",
        cost(item.spent_usd),
        cost(item.saved_usd),
        what,
    )
