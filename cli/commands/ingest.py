"""`runfold ingest`: what a program reports, a request a line on stdin, and an answer a line on stdout."""

import asyncio
import os
import sys

import click
import msgspec

from cli.data_folder import need_folder, prepare_folder
from cli.reading import settings_of
from cli.settings import Settings
from runfold.redact import secrets_of

LINE_BYTES_MAX = 4 * 1024 * 1024


@click.command()
@click.pass_context
def ingest(context: click.Context) -> None:
    """Record what a program reports on stdin, and answer each line; for the Python client."""
    settings = settings_of(context)
    need_folder(settings, "ingest")
    prepare_folder(settings.data)
    asyncio.run(_ingest(settings))


async def _ingest(settings: Settings) -> None:
    from cli.actor import local_actor
    from cli.budgets import spending_here
    from cli.wishing import end_overdue
    from eventstore.ledger import Ledger
    from eventstore.opening import open_log
    from runfold.client.requests import Answer, decode_request
    from runner.intake import Intake

    data = settings.data
    log = await open_log(data, settings.log, blobs=settings.blobs)
    try:
        ledger = Ledger(log, data=data, secrets=secrets_of(os.environ))
        await end_overdue(ledger, log, data)
        async with spending_here(data) as left:
            intake = Intake(ledger, data=data, actor=local_actor(), left=left)
            while line := await asyncio.to_thread(sys.stdin.buffer.readline, LINE_BYTES_MAX):
                try:
                    answer = await intake.answer(decode_request(line))
                except msgspec.MsgspecError as error:
                    problem = {
                        "code": "bad_request",
                        "detail": f"the line is no request: {error}",
                        "hint": "see docs/client.md",
                    }
                    answer = Answer(status=400, body=msgspec.Raw(msgspec.json.encode(problem)))
                sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
                sys.stdout.buffer.flush()
    finally:
        await log.close()
