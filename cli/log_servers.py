"""What `runfold doctor` finds of a replicated log's servers: who answers, and whether they keep what they promise."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from cli.settings import Settings
from eventstore.mirrored import mirrored_log
from runfold.errors import RunfoldError

if TYPE_CHECKING:
    from eventstore.jetstream.cluster import Copies

CONNECT_SECONDS = 5.0
COPIES_MIN = 3
MONITOR_SECONDS = 3.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`level` is `ok`, `note` or `problem`."""

    name: str
    level: str
    text: str


def log_servers(settings: Settings, monitors: Sequence[str]) -> list[Finding]:
    """Of a log of the folder's own there is nothing to find. `monitors`: `http://host:8222` of each server."""
    mirrored = mirrored_log(settings.data)
    address = settings.log or (mirrored.address if mirrored is not None else "")
    if not address:
        return []
    try:
        from eventstore.jetstream.address import parse_address
        from eventstore.jetstream.cluster import copies

        held = asyncio.run(copies(parse_address(address), patience_seconds=CONNECT_SECONDS))
    except ImportError:
        return [Finding(name="servers", level="problem", text="a replicated log needs: pip install 'runfold[nats]'")]
    except RunfoldError as error:
        return [Finding(name="servers", level="problem", text=f"{error.message}; {error.hint}")]
    return [_kept(held), *_followers(held), *_durability(monitors)]


def _kept(held: "Copies") -> Finding:
    if held.count < COPIES_MIN:
        remedy = f"nats stream edit {held.name} --replicas {COPIES_MIN}"
        text = f"the log has {held.count} copy, and dies with it; {remedy}"
        return Finding(name="servers", level="problem", text=text)
    return Finding(
        name="servers", level="ok", text=f"{held.count} copies of the log, led by {held.leader or 'nobody now'}"
    )


def _followers(held: "Copies") -> Iterator[Finding]:
    for follower in held.followers:
        if not follower.is_up:
            text = f"{follower.name} is down: one more, and nothing can be appended"
            yield Finding(name="servers", level="problem", text=text)
        elif not follower.is_current:
            text = f"{follower.name} is {follower.lag} behind the leader"
            yield Finding(name="servers", level="note", text=text)


def _durability(monitors: Sequence[str]) -> list[Finding]:
    if not monitors:
        text = "whether its servers sync what they acknowledge is not known; --monitor http://host:8222 asks one"
        return [Finding(name="sync", level="note", text=text)]
    return [_sync(monitor) for monitor in monitors]


def _sync(monitor: str) -> Finding:
    try:
        if not monitor.startswith(("http://", "https://")):
            raise ValueError("it is no http:// address")
        with urllib.request.urlopen(f"{monitor.rstrip('/')}/jsz?config=true", timeout=MONITOR_SECONDS) as answer:  # noqa: S310
            told: Any = json.load(answer)
        is_synced = bool(told["config"].get("sync_always"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding(name="sync", level="problem", text=f"{monitor} does not say how it keeps the log: {error}")
    if is_synced:
        return Finding(name="sync", level="ok", text=f"{monitor} acknowledges what is on its disk")
    text = f"{monitor} may lose two minutes of acknowledged events; in its jetstream block: sync_interval: always"
    return Finding(name="sync", level="problem", text=text)
