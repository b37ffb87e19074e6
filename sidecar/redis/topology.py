"""Which node a connection goes to: the one in its URL, Sentinel's master, or a slot's owner.

All keys that one client touches lie in one slot: a control stream, or a notification stream and
what belongs to it. So no client of a whole Cluster is needed. A connection asks its way whenever
it connects, and is closed as soon as its node turns out not to be, or no longer to be, the one to
write to: a client that outlives an outage outlives a failover, and a slot that moves, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import redis
from redis.connection import AbstractConnection, parse_url
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    TryAgainError,
)

from sidecar.redis.bounded import BoundedParser
from sidecar.redis.url_options import WrongOption, database, read_query
from sidecar.wire.secretfile import read_secret
from sidecar.wire.urls import FiledUrl, Unclear, check_form

ASK_TIMEOUT_S: Final = 1.0
"""Seconds that a Sentinel or a node may take to tell the way before the next one is asked."""
SENTINEL_PORT: Final = 26379
REDIS_PORT: Final = 6379

_FOR_GUIDES: Final = {
    "db": 0, "socket_timeout": ASK_TIMEOUT_S, "socket_connect_timeout": ASK_TIMEOUT_S,
}  # fmt: skip
_LOGIN: Final = ("username", "password")
_REPLICA: Final = (redis.ReadOnlyError, MasterDownError)
_REPLICA_SAYS: Final = ("UNBLOCKED force unblock", " -READONLY ")
"""The first to who was blocked when it was demoted, the second in a script's error (Redis 6.2)."""
_CLUSTER: Final = (AskError, TryAgainError, ClusterDownError)
"""An `AskError` is a `MovedError`, too."""

Login = tuple[str] | tuple[str, str]
"""What `AUTH` takes."""
Options = dict[str, Any]
"""What redis-py makes a connection from."""
T = TypeVar("T")


class Elsewhere(redis.ConnectionError):
    """The node is not the one to write to, or no longer; asked again, the way may be another."""


class WrongNode(Elsewhere):
    """The node in the URL is not the one to write to, and nobody can be asked for another."""


class WrongService(redis.ConnectionError):
    """The server that was to know the way answers, and is not what the URL says."""


class Node(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


class Route(Protocol):
    """Tells where to connect."""

    def find(self) -> Node:
        """Return the node to write to now. Raises `RedisError`."""


# --- who tells the way ---------------------------------------------------------------------------


class Guides:
    """Nodes that can tell the way.

    They are asked in turn: one that was cut off from the others, and does not know of a failover,
    must not mislead for ever.
    """

    def __init__(
        self, connection_class: type[redis.Connection], options: Options, nodes: Iterable[Node]
    ) -> None:
        self._connection_class = connection_class
        self.options = options
        self._named = self._turn = list(nodes)

    def learn(self, nodes: Sequence[Node]) -> None:
        """Know of these as well: those that the URL names may be gone one day."""
        current = {*self._named, *nodes}
        known = dict.fromkeys([*self._turn, *nodes])
        self._turn = [node for node in known if node in current]

    def ask(self, command: Sequence[str], read: Callable[[Any, Node], T]) -> T:
        """Return what `read` makes of the first answer that it accepts.

        Raises `WrongService` when all of them refuse the question, `RedisError`
        when nobody knows the answer now.
        """
        troubles: list[str] = []
        wrong = True
        for _ in range(len(self._turn)):
            node, *others = self._turn
            self._turn = [*others, node]
            try:
                return read(self._answer(node, command), node)
            except (redis.AuthenticationError, NoPermissionError):
                raise
            except redis.RedisError as error:
                wrong = wrong and isinstance(error, redis.ResponseError | WrongService)
                troubles.append(_named(f"{node.host}:{node.port}", error))
        raise (WrongService if wrong else redis.ConnectionError)("; ".join(troubles))

    def _answer(self, node: Node, command: Sequence[str]) -> Any:  # noqa: ANN401 -- redis-py
        connection: Any = self._connection_class(**{**self.options, **node._asdict()})
        try:
            connection.connect()
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()


class SentinelRoute:
    """The way to the master that Sentinels watch under a name."""

    def __init__(self, guides: Guides, master: str) -> None:
        self._guides = guides
        self._master = master

    def find(self) -> Node:
        """Return the master, as the next Sentinel knows it."""
        return self._guides.ask(
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master), self._address
        )

    def _address(self, answer: list[bytes] | None, _: Node) -> Node:
        if answer is None:
            raise WrongService(f"no master named {self._master!r}")
        host, port = answer
        return Node(host.decode(), int(port))


class SlotRoute:
    """The way to the owner of a Cluster's slot."""

    def __init__(self, guides: Guides, slot: int) -> None:
        self.slot = slot
        self._guides = guides

    def find(self) -> Node:
        """Return the slot's owner, as the next node knows it."""
        return self._guides.ask(("CLUSTER", "SLOTS"), self._owner)

    def owners(self) -> dict[Node, list[range]]:
        """Return all nodes that own slots, and which, as the next node knows them."""
        return self._guides.ask(("CLUSTER", "SLOTS"), self._owners)

    def _owner(self, answer: Any, asked: Node) -> Node:  # noqa: ANN401 -- redis-py
        for node, slots in self._owners(answer, asked).items():
            if any(self.slot in some for some in slots):
                return node
        raise redis.ConnectionError(f"no node of the Cluster owns slot {self.slot}")

    def _owners(self, answer: Any, asked: Node) -> dict[Node, list[range]]:  # noqa: ANN401 -- redis-py
        owners: dict[Node, list[range]] = {}
        known = []
        for first, last, *nodes in answer:
            # A node that does not know its own name leaves it out.
            here = [Node((host or b"").decode() or asked.host, port) for host, port, *_ in nodes]
            owners.setdefault(here[0], []).append(range(first, last + 1))
            known += here
        self._guides.learn(known)
        return owners


# --- connections ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Connects:
    """How often the connections of one client were made: a pool connects anew without a word."""

    count: int = 0


class Steering:
    """What both kinds of connection make of errors, blocking ones and those of asyncio."""

    _route: Route | None
    _host_error: Callable[[], str]
    """redis-py's: where it is connected to."""

    @property
    def _node(self) -> str:
        return self._host_error()

    def _raise_with_node(self, error: redis.RedisError) -> NoReturn:
        error.args = (_named(self._node, error),)
        raise error

    def _check_role(self, answer: Any) -> None:  # noqa: ANN401 -- redis-py
        role = answer[0].decode()
        if role != "master":
            raise Elsewhere(f"{self._node} was named as the master and says that it is a {role}")

    def _problem(self, error: redis.ResponseError) -> Elsewhere | None:
        """Say what an error answer tells of the node, if it tells anything."""
        if isinstance(error, _REPLICA) or any(words in str(error) for words in _REPLICA_SAYS):
            if self._route is None:
                return WrongNode("is a replica, read-only; name the primary")
            return Elsewhere(f"{self._node} is not the master any more")
        if isinstance(error, _CLUSTER):
            if self._route is None:
                return WrongNode(f"is a node of a Cluster; write redis+cluster://{self._node}")
            return Elsewhere(f"{self._node} does not serve the slot now: {error}")
        return None


class _Steered(Steering, AbstractConnection):
    """Goes where its route says, and leaves a node that is not the one to write to."""

    def __init__(
        self, *, route: Route | None = None, connects: Connects | None = None, **options: Any  # noqa: ANN401 -- redis-py
    ) -> None:  # fmt: skip
        super().__init__(**options, parser_class=BoundedParser)
        self._route = route
        self._connects = connects

    def connect_check_health(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- redis-py
        if self._route is not None and not self._sock:
            self.host, self.port = self._route.find()
        try:
            super().connect_check_health(*args, **options)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self._raise_with_node(error)

    def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 -- redis-py's
        super().on_connect_check_health(check_health)
        if self._connects is not None:
            self._connects.count += 1
        if self._route is not None:
            self.send_command("ROLE", check_health=False)  # type: ignore[no-untyped-call]
            self._check_role(self.read_response())

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: ANN401, FBT001, FBT002 -- redis-py's
        self._parser.begin()
        try:
            super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]
        except redis.ConnectionError as error:
            self._raise_with_node(error)

    def read_response(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 -- redis-py
        try:
            return super().read_response(*args, **options)
        except redis.ConnectionError as error:
            self._raise_with_node(error)
        except redis.ResponseError as error:
            problem = self._problem(error)
            if problem is None:
                raise
            self.disconnect()  # type: ignore[no-untyped-call]
            raise problem from error


class _SteeredTCP(_Steered, redis.Connection):
    pass


class _SteeredSSL(_Steered, redis.SSLConnection):
    pass


class _SteeredUnix(_Steered, redis.UnixDomainSocketConnection):
    pass


_STEERED: Final[dict[Any, Any]] = {
    redis.Connection: _SteeredTCP,
    redis.SSLConnection: _SteeredSSL,
    redis.UnixDomainSocketConnection: _SteeredUnix,
}


def _named(node: str, error: Exception) -> str:
    return str(error) if node in str(error) else f"{node}: {error}"


# --- URLs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says: how to connect and, unless it names the node itself, whom to ask for it."""

    connection_class: type[AbstractConnection]
    options: Options
    guides: Guides | None = None
    master: str = ""
    """What Sentinels call it; empty on a Cluster."""

    def route(self, slot: int | None) -> Route | None:
        """Return the way to the master, or to a slot's owner; None when there is nothing to ask."""
        if self.guides is None:
            return None
        if self.master:
            return SentinelRoute(self.guides, self.master)
        if slot is None:
            raise TypeError("on a Cluster, connect() needs the key")
        return SlotRoute(self.guides, slot)


def read_url(url: str, defaults: Options, *, block_s: float = 0.0) -> Place:
    """Read a Redis URL of any form; `defaults` are options that it may override.

    A `socket_timeout` that it gives is for an answer that comes at once: `block_s`, how long the
    server may block before that, is added. Raises `ValueError`, and below it `Unclear`, whose text
    repeats nothing of the URL but names of options.
    """
    check_form(url)
    scheme, _, rest = url.partition("://")
    base, plus, kind = scheme.partition("+")
    is_known = base in ("redis", "rediss") and kind in ("sentinel", "cluster")
    if plus and not is_known:
        raise Unclear("there is no such scheme")
    address, _, query = rest.partition("?")
    options = defaults | read_query(scheme, query)
    options["socket_timeout"] += block_s
    file = url.file if isinstance(url, FiledUrl) else None
    if plus:
        return _guided(address, base, kind, options, file)
    options = _parsed(f"{base}://{address}", options)
    base_class = options.pop("connection_class", redis.Connection)
    if base_class is redis.UnixDomainSocketConnection:
        options.pop("socket_keepalive", None)  # of TCP only
    return Place(_STEERED[base_class], _renewed(options, file))


def _guided(address: str, base: str, kind: str, given: Options, file: Path | None) -> Place:
    """Read the address of Sentinels or of a Cluster."""
    authority, _, path = address.partition("/")
    login, at, hosts = authority.rpartition("@")
    each = [_parsed(f"{base}://{login}{at}{host}", given) for host in hosts.split(",")]
    options = each[0]
    base_class = options.pop("connection_class", redis.Connection)
    parts = [unquote(part) for part in path.split("/") if part]
    if kind == "sentinel":
        master, options["db"] = _master(parts)
        guide_options = options | {name: options.pop(f"sentinel_{name}", None) for name in _LOGIN}
    else:
        master, guide_options = "", options
        if parts not in ([], ["0"]):
            raise Unclear("a Cluster has no database but 0")
    port = REDIS_PORT if kind == "cluster" else SENTINEL_PORT
    guide_options = _renewed(guide_options, file, of_guides=True) | _FOR_GUIDES
    guides = Guides(base_class, guide_options, [_node(one, port) for one in each])
    return Place(_STEERED[base_class], _renewed(options, file), guides, master)


class _Login(redis.CredentialProvider):
    """The login of a URL that stands in a file, as the file has it when a connection is made."""

    def __init__(self, file: Path, login: Login, *, of_guides: bool) -> None:
        self._file = file
        self._login = login
        self._of_guides = of_guides

    def get_credentials(self) -> Login:
        """Return what `AUTH` takes; the last one while the file cannot be read, or has none."""
        with suppress(OSError, ValueError):  # it may be half written
            place = read_url(read_secret(self._file), {"socket_timeout": ASK_TIMEOUT_S})
            options = place.guides.options if self._of_guides and place.guides else place.options
            self._login = _login_of(options) or self._login
        return self._login

    async def get_credentials_async(self) -> Login:
        """Do the same: a small file is read at once."""
        return self.get_credentials()


def _login_of(options: Options) -> Login | None:
    username, password = (options.get(name) for name in _LOGIN)
    return ((username, password) if username else (password,)) if password else None


def _renewed(options: Options, file: Path | None, *, of_guides: bool = False) -> Options:
    """Have a login that stands in a file read again with each connection."""
    login = _login_of(options)
    if file is None or login is None:
        return options
    kept = {name: value for name, value in options.items() if name not in _LOGIN}
    return kept | {"credential_provider": _Login(file, login, of_guides=of_guides)}


def _parsed(url: str, given: Options) -> Options:
    """Return what stands before a query beside what is `given` in it. Raises `ValueError`."""
    options = dict(parse_url(url))  # type: ignore[no-untyped-call]
    path = urlsplit(url).path.removeprefix("/")
    if path and not url.startswith("unix"):
        options["db"] = database(path)
    for name in given.keys() & options.keys():
        if given[name] != options[name]:
            raise WrongOption(f"{name} in its query is given twice: before the ? it is another")
    return given | options


def _master(path: Sequence[str]) -> tuple[str, int]:
    """Return the master's name, and the database."""
    master, db, *rest = *path, *["", "0"][len(path) :]
    if not master or not db.isdecimal() or rest:
        raise Unclear("after the Sentinels comes /MASTER, the name that they know, or /MASTER/DB")
    return master, int(db)


def _node(options: Options, port: int) -> Node:
    if "host" not in options:
        raise Unclear("a host is missing")
    return Node(options["host"], options.get("port", port))
