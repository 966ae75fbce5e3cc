"""`runfold token create`, `list` and `revoke`: who may come in, as the log knows it, here or through a server."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, get_args

import click

from cli.actor import local_actor
from cli.reading import json_option, open_remote_of, print_json, settings_of
from cli.screen import next_command, plain, table, talk
from cli.settings import Settings
from runfold.tokens import EXPIRES_BY_DEFAULT, NewToken, Role, TokenItem, TokenList, item_of

if TYPE_CHECKING:
    from projections.tokens import TokenBook


@click.group()
def token() -> None:
    """Make, list and revoke the tokens with which people and programs come in."""


@token.command()
@click.option("--tenant", help="Whose runs it may see; `*` means all. By default `default`.")
@click.option("--role", type=click.Choice(get_args(Role)), required=True, help="What it may do there.")
@click.option("--expires", default=EXPIRES_BY_DEFAULT, show_default=True, help="30d, 12h, a date, or never.")
@click.option("--name", help="Who or what has it; the audit names it so. By default made up.")
@json_option
@click.pass_context
def create(
    context: click.Context, *, tenant: str | None, role: str, expires: str, name: str | None, as_json: bool
) -> None:
    """Make a token and print its secret, which nobody can tell again."""
    settings = settings_of(context)
    name = name or f"{role}-{secrets.token_hex(3)}"
    if settings.url:
        with open_remote_of(settings) as server:
            made = server.create_token(name=name, tenant=tenant, role=role, expires=expires)
    else:
        made = asyncio.run(_create(settings, name, tenant or "default", role, expires))
    if as_json:
        print_json(made)
        return
    click.echo(made.secret)
    item = made.token
    ends = "never expires" if item.expires_at is None else f"expires at {item.expires_at[:19]}Z"
    talk(f"token {item.id} ({item.name}): {item.role} of tenant {item.tenant}, {ends}; it is shown only now")
    next_command(f"runfold token revoke {item.id}")


@token.command("list")
@json_option
@click.pass_context
def list_(context: click.Context, *, as_json: bool) -> None:
    """List the tokens, the newest first, those that were revoked too."""
    settings = settings_of(context)
    if settings.url:
        with open_remote_of(settings) as server:
            found = server.tokens()
    else:
        found = asyncio.run(_list(settings))
    if as_json:
        print_json(found)
        return
    rows = [
        (it.id, plain(it.name, 40), plain(it.tenant, 40), it.role, it.status, (it.expires_at or "never")[:10])
        for it in found.items
    ]
    table(("ID", "NAME", "TENANT", "ROLE", "STATUS", "EXPIRES"), rows)


@token.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the record.")
@json_option
@click.pass_context
def revoke(context: click.Context, *, name: str, reason: str, as_json: bool) -> None:
    """Revoke a token by its id or name: whoever has it is out at once."""
    settings = settings_of(context)
    if settings.url:
        with open_remote_of(settings) as server:
            revoked = server.revoke_token(name, reason)
    else:
        revoked = asyncio.run(_revoke(settings, name, reason))
    if as_json:
        print_json(revoked)
        return
    talk(f"token {revoked.id} ({revoked.name}) is revoked")


async def _create(settings: Settings, name: str, tenant: str, role: str, expires: str) -> NewToken:
    async with _book(settings) as book:
        return await book.create(name=name, tenant=tenant, role=role, expires=expires, actor=local_actor())


async def _list(settings: Settings) -> TokenList:
    from projections.tokens import now_us

    async with _book(settings) as book:
        await book.refresh()
        items = tuple(item_of(it, now_us()) for it in book.every())
    return TokenList(items=items, total=len(items))


async def _revoke(settings: Settings, name: str, reason: str) -> TokenItem:
    async with _book(settings) as book:
        return await book.revoke(name, reason=reason, actor=local_actor())


@asynccontextmanager
async def _book(settings: Settings) -> "AsyncGenerator[TokenBook, None]":
    from cli.data_folder import prepare_folder
    from eventstore.opening import open_log
    from projections.tokens import TokenBook

    prepare_folder(settings.data)
    log = await open_log(settings.data, settings.log, blobs=settings.blobs)
    try:
        yield TokenBook(log)
    finally:
        await log.close()
