"""Tokens over HTTP: made, listed and revoked by admins, each of their own tenant, those of `*` of all."""

from typing import Annotated

import msgspec
from aiohttp import web

from api.answers import json_response
from api.asking import Limit
from api.guard import SCOPE
from api.routes import BODY, QUERY, Route
from api.service import SERVICE
from api.sessions import Scope
from projections.tokens import now_us
from runfold.errors import Forbidden
from runfold.reporting import Text
from runfold.tokens import EXPIRES_BY_DEFAULT, NewToken, Role, TokenItem, TokenList, TokenStatus, item_of

Offset = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class TokensQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`q` stands in the name, the tenant or who made it, in any case."""

    q: Text = ""
    role: Role | None = None
    status: TokenStatus | None = None
    limit: Annotated[int, Limit] = 50
    offset: Offset = 0


class TokenBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`expires` is such as 30d, 12h, a date or `never`; `tenant` is the caller's where left out, and `*` means all."""

    name: Text
    role: Role
    tenant: Text | None = None
    expires: Text = EXPIRES_BY_DEFAULT


class RevokeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Text = ""


async def get_tokens(request: web.Request) -> web.Response:
    query: TokensQuery = request[QUERY]
    book = request.app[SERVICE].tokens
    await book.refresh()
    now, tenant = now_us(), _tenant(request[SCOPE])
    mine = [item_of(token, now) for token in book.every() if tenant in (None, token.tenant)]
    found = [item for item in mine if _fits(item, query)]
    return json_response(TokenList(items=tuple(found[query.offset : query.offset + query.limit]), total=len(found)))


def _fits(item: TokenItem, query: TokensQuery) -> bool:
    texts = f"{item.name}\n{item.tenant}\n{item.created_by}".casefold()
    is_named = query.q.casefold() in texts
    return is_named and query.role in (None, item.role) and query.status in (None, item.status)


async def post_token(request: web.Request) -> web.Response:
    """The one answer that holds the secret. Sent again it is refused, as the name is taken: nothing is made twice."""
    body: TokenBody = request[BODY]
    scope = request[SCOPE]
    tenant = scope.tenant if body.tenant is None else body.tenant
    if tenant != scope.tenant and not scope.of_all:
        raise Forbidden("a token of another tenant cannot be made here", hint="it needs an admin of all tenants")
    made = await request.app[SERVICE].tokens.create(
        name=body.name, tenant=tenant, role=body.role, expires=body.expires, actor=scope.actor
    )
    return json_response(made, status=201)


async def delete_token(request: web.Request) -> web.Response:
    body: RevokeBody = request[BODY]
    scope = request[SCOPE]
    revoked = await request.app[SERVICE].tokens.revoke(
        request.match_info["token"], tenant=_tenant(scope), actor=scope.actor, reason=body.reason
    )
    return json_response(revoked)


def _tenant(scope: Scope) -> str | None:
    """Whose tokens these admins see; None: everybody's."""
    return None if scope.of_all else scope.tenant


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/tokens",
        operation="list_tokens",
        handler=get_tokens,
        summary="The tokens, the newest first, those that were revoked too",
        needs="admin",
        query=TokensQuery,
        answer=TokenList,
    ),
    Route(
        method="POST",
        path="/api/tokens",
        operation="create_token",
        handler=post_token,
        summary="Make a token; its secret is told here and never again",
        needs="admin",
        body=TokenBody,
        answer=NewToken,
        status=201,
    ),
    Route(
        method="DELETE",
        path="/api/tokens/{token}",
        operation="revoke_token",
        handler=delete_token,
        summary="Revoke a token by its id or name: its sessions and streams end at once",
        needs="admin",
        body=RevokeBody,
        answer=TokenItem,
    ),
)
