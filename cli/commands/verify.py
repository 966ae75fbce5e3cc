"""`runfold verify`: the proof that nothing was altered, and that what is shown is what happened."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec

from cli.beside import end_with_input
from cli.copying import store_url
from cli.data_folder import bring_mirror, need_folder
from cli.reading import json_option, print_json, settings_of
from cli.screen import colour, is_talking, plain, talk
from cli.settings import Settings
from eventstore.anchoring import Anchor
from eventstore.log_file import open_reader
from eventstore.mirrored import mirrored_log
from eventstore.proof.anchors import anchors_beside, check_signatures, read_anchors
from eventstore.proof.attachments import Attachments
from eventstore.proof.faults import Fault, told
from eventstore.proof.signing import Verifier
from eventstore.proof.verified import Verified, keep_verified
from eventstore.proof.verifying import Proof
from eventstore.sqlite3_module import sqlite3
from eventstore.state_file import States
from projections.engine.drift import Drift
from runfold.envelope import time_text
from runfold.errors import BadRequest, Unavailable

FAULTS_SHOWN_MAX = 1_000
SIGNATURES_SHOWN_MAX = 100  # So that those never push out what is wrong with the log.
LEAST = 19  # The scheduler gives such a process what is left over.
PARTS = ("log", "blobs", "views", "states", "copy", "stream")


@click.command()
@click.option(
    "--anchor",
    "anchor_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Anchors kept elsewhere: a copy of anchors.jsonl, or some of its lines.",
)
@click.option(
    "--public-key",
    "public_key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="An Ed25519 key that has to have signed the anchors that are given.",
)
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Prove only this; repeatable.")
@click.option("--gently", is_flag=True, help="Take only what nobody else needs of the machine.")
@click.option("--while-asked", "while_asked", is_flag=True, hidden=True, help="End when standard input does.")
@json_option
@click.pass_context
def verify(
    context: click.Context, *, anchor_files: tuple[Path, ...], public_key: Path | None, only: tuple[str, ...],
    gently: bool, while_asked: bool, as_json: bool,
) -> None:  # fmt: skip
    """Prove the log, its anchors and blobs, and that every view equals its history."""
    settings = settings_of(context)
    need_folder(settings, "verify")
    data = settings.data
    if while_asked:
        end_with_input()
    given = [anchor for path in anchor_files for anchor in _anchors_of(path)]
    if public_key is not None and not given:
        raise BadRequest(
            "a public key alone proves nothing", hint="give the anchors that it has signed by --anchor FILE"
        )
    if public_key is None and settings.anchor_public_key:
        public_key = Path(settings.anchor_public_key)
    verifier = None if public_key is None else Verifier(public_key)
    if given and verifier is None and any(anchor.signature for anchor in given):
        talk("note: the anchors are signed; `--public-key FILE` checks by whom")
    if gently:
        os.nice(LEAST)
    verified = _verify(settings, given, only or PARTS, verifier=verifier, gently=gently)
    if gently and not verified.ok:
        # Beside a server a run may move, or be cleaned, between two looks: only what is found twice is so.
        verified = _verify(settings, given, only or PARTS, verifier=verifier, gently=gently)
    if not only:
        keep_verified(data, _of_the_folder(verified))
    if as_json:
        print_json(verified)
    else:
        _print(verified, data)
    if not verified.ok:
        context.exit(1)


def _of_the_folder(verified: Verified) -> Verified:
    """The same without what is wrong with the anchors that were given: that is no fault of the folder."""
    faults = tuple(fault for fault in verified.faults if fault.kind != "signature")
    found = verified.faults_found - len(verified.faults) + len(faults)
    return msgspec.structs.replace(verified, ok=not found, faults=faults, faults_found=found)


def _anchors_of(path: Path) -> list[Anchor]:
    hint = "give what `runfold anchors` printed, or a copy of the data folder's anchors.jsonl"
    try:
        found = read_anchors(path)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"`{path}` does not hold anchors: {error}", hint=hint) from error
    if not found:
        raise BadRequest(f"`{path}` holds no anchor, so it proves nothing", hint=hint)
    return found


def _refuse_foreign(given: list[Anchor], log_id: str) -> None:
    """What another log was says nothing of this one, so it is no fault of this one. Raises BadRequest."""
    for anchor in given:
        if anchor.log_id not in ("", log_id):
            raise BadRequest(
                f"the anchor at {anchor.position} is of another log, `{anchor.log_id}`; this one is `{log_id}`",
                hint="give what `runfold anchors` printed of this log; if that was it, another log is in its place now",
            )


def _verify(
    settings: Settings, given: list[Anchor], only: tuple[str, ...], *, verifier: Verifier | None, gently: bool
) -> Verified:
    data = settings.data
    faults: list[Fault] = []
    found_count, started_us = 0, time.time_ns() // 1_000
    looked_at: dict[str, int] = {}

    def keep(found: Iterator[Fault]) -> None:
        nonlocal found_count
        for fault in told(found):
            found_count += 1
            if len(faults) < FAULTS_SHOWN_MAX:
                faults.append(fault)

    connection = open_reader(data)
    try:
        proof = Proof(connection)
        _refuse_foreign(given, proof.log_id)
        if "log" in only:
            beside, unreadable = anchors_beside(data)
            keep(iter(unreadable))
            if verifier is not None:
                checked = [(anchor, [*check_signatures([anchor], verifier, proof.log_id)]) for anchor in given]
                keep(islice((fault for _, wrong in checked for fault in wrong), SIGNATURES_SHOWN_MAX))
                # What the key did not sign says nothing of this log.
                given = [anchor for anchor, wrong in checked if not wrong]
            keep(proof.faults(anchors=[*beside, *given], on_progress=_progress("events")))
            looked_at |= {"events": proof.events, "runs": proof.runs, "anchors": proof.anchors}
        if "blobs" in only:
            attachments = Attachments(connection, data)
            keep(attachments.faults(upto=proof.head))
            looked_at |= {"blobs": attachments.blobs, "outputs": attachments.outputs}
        if "views" in only:
            # Who is gentle holds no lock that others wait for.
            drift = Drift(connection, data, is_caught_up=not gently)
            keep(drift.faults(on_progress=lambda name, done, upto: _progress(f"view {name}")(done, upto)))
            looked_at |= {"rows": drift.rows}
        if "states" in only:
            states = States(connection, data)
            keep(states.faults())
            looked_at |= {"states": states.files}
        if "copy" in only and store_url(settings):
            looked_at |= _compare_copy(connection, settings, keep)
        if "stream" in only and (settings.log or mirrored_log(data) is not None):
            looked_at |= _compare_stream(connection, settings, keep)
    finally:
        connection.close()
        if is_talking():
            click.echo("\r\x1b[K", nl=False, err=True)
    return Verified(
        ok=not faults,
        looked_at=looked_at,
        faults=tuple(faults),
        head=proof.head,
        faults_found=found_count,
        started_at=time_text(started_us),
        finished_at=time_text(time.time_ns() // 1_000),
    )


def _compare_copy(
    connection: sqlite3.Connection, settings: Settings, keep: Callable[[Iterator[Fault]], None]
) -> dict[str, int]:
    """The log beside its second copy. A store that is not there is no fault of the log."""
    from eventstore.keeping.second_copy import Comparison, SecondCopy
    from eventstore.objects.object_store import open_store

    log_id = connection.execute("SELECT log_id FROM head").fetchone()[0]
    comparison = Comparison(
        connection,
        SecondCopy(open_store(store_url(settings)), log_id),
        is_mirror=mirrored_log(settings.data) is not None,
    )
    try:
        keep(comparison.faults())
    except Unavailable as error:
        talk(f"note: the second copy could not be compared: {error.message}")
    return {"segments of the copy": comparison.segments}


def _compare_stream(
    connection: sqlite3.Connection, settings: Settings, keep: Callable[[Iterator[Fault]], None]
) -> dict[str, int]:
    """The mirror beside what each server has of its stream. Servers that are not there are no fault of the mirror."""
    from eventstore.jetstream.address import parse_address
    from eventstore.jetstream.comparing import compare_stream

    # What was trimmed since a mirror was last brought forward is no longer in the stream.
    bring_mirror(settings)
    mirrored = mirrored_log(settings.data)
    address = parse_address(settings.log or (mirrored.address if mirrored is not None else ""))
    try:
        counts, found = asyncio.run(compare_stream(connection, address, on_progress=_progress("stream")))
    except Unavailable as error:
        talk(f"note: the stream could not be compared: {error.message}")
        return {}
    keep(iter(found))
    return {f"messages of the stream at {server}": count for server, count in counts.items()}


def _progress(what: str) -> Any:
    def show(done: int, total: int) -> None:
        if is_talking() and total:
            click.echo(f"\r\x1b[K{what}: {done:,} of {total:,} ({done * 100 // total} %)", nl=False, err=True)

    return show


def _print(verified: Verified, data: Path) -> None:
    for fault in verified.faults:
        click.echo(f"{colour(fault.kind, 'red')}  {plain(fault.message, 300)}")
    figures = ", ".join(f"{number:,} {name}" for name, number in verified.looked_at.items())
    if verified.ok:
        click.echo(f"{colour('sound', 'green')}  {figures}, up to position {verified.head}")
        return
    found = "1 fault" if verified.faults_found == 1 else f"{verified.faults_found:,} faults"
    talk(f"{found} in {figures}")
    kinds = {fault.kind for fault in verified.faults}
    if kinds == {"view"}:
        talk("next: runfold rebuild  (the log is sound; the views are folded anew from it)")
    elif kinds == {"signature"}:
        talk("next: give the anchors, and the key that signed them, from where they are kept  (the log holds)")
    elif kinds == {"state"}:
        talk("next: runfold recover  (the log is sound; the files are written anew from it)")
    elif kinds == {"view", "state"}:
        talk("next: runfold rebuild, then runfold recover  (the log is sound)")
    else:
        talk(f"next: keep a copy of {data} as it is, then restore a backup")
