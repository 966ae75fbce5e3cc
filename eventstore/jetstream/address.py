"""Where a replicated log is: `nats://[user:password@]host[:port][,host[:port]…][/NAME]`."""

import re
from urllib.parse import unquote

import msgspec

from runfold.errors import InvalidSetting

PORT = 4222
NAME = "runfold"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HINT = "write it as nats://host:4222,host:4222,host:4222/runfold"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """`servers` as the client takes them, one each; `name` of the stream and the first word of its subjects."""

    servers: tuple[str, ...]
    name: str = NAME

    @property
    def shown(self) -> str:
        """As it may be stored and logged: without a password."""
        hosts = ",".join(server.partition("://")[2].rpartition("@")[2] for server in self.servers)
        return f"{self.servers[0].partition('://')[0]}://{hosts}/{self.name}"


def parse_address(text: str) -> Address:
    """The address of a log. Raises InvalidSetting."""
    scheme, found, rest = text.partition("://")
    if not found or scheme not in ("nats", "tls"):
        raise InvalidSetting(f"`{without_password(text)}` is no address of a log", hint=_HINT)
    hosts, _, name = rest.partition("/")
    login, at, hosts = hosts.rpartition("@")
    names = [host.strip() for host in hosts.split(",")]
    if not all(names):
        raise InvalidSetting(f"`{without_password(text)}` names no server", hint=_HINT)
    name = unquote(name) or NAME
    if not _NAME.fullmatch(name):
        raise InvalidSetting(f"`{name}` cannot name a log", hint="letters, digits, `-` and `_`, at most 64")
    return Address(servers=tuple(f"{scheme}://{login}{at}{_with_port(host)}" for host in names), name=name)


def without_password(text: str) -> str:
    """The address as it may be shown and logged."""
    return re.sub(r"//([^:/@]*):[^@/]*@", r"//\1:***@", text)


def _with_port(host: str) -> str:
    tail = host.rpartition("]")[2] if host.startswith("[") else host
    return host if ":" in tail else f"{host}:{PORT}"
