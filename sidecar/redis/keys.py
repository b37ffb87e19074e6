"""Key names (public: docs/contract.md, "Keys in Redis") and the deduplication index's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.errors import UsageError

CONSUMER: Final = "worker"
GROUP: Final = "sidecar:"
"""Before the notification stream's name: the group of its workers."""
ARCHIVERS: Final = "archive:"
"""Before the notification stream's name: the group that stands where its archive ends."""
SHARDS: Final = 65_536
LONGEST_NAME: Final = 512
"""Of a stream, in characters."""


def hash_tagged(stream: str) -> str:
    """Return the prefix that puts a key into the slot of `stream` on a Redis Cluster.

    Raises `UsageError` for a name with stray braces, whose slot no other key could share.
    """
    head, brace, rest = stream.partition("{")
    tag, closing, _ = rest.partition("}")
    if not brace and "}" not in head:
        return "{" + stream + "}"
    if brace and closing and tag:
        return stream
    raise UsageError(
        f"--notify-stream {stream!r}: a brace that encloses no hash tag; leave it out or write"
        " {tag}"
    )


def check_name(stream: str) -> str:
    """Return a stream's name. Raises `ValueError` for a URL: names are in logs and records, and it
    may have a password; and for one that no worker takes.
    """
    if "://" in stream:
        raise ValueError("a stream's name is wanted, and that is a URL")
    if not 0 < len(stream) <= LONGEST_NAME:
        raise ValueError(f"a stream's name has 1 to {LONGEST_NAME} characters")
    return stream


def check_control(stream: str) -> str:
    """Return a control stream's name. Raises `ValueError` as `check_name`, and for two in one."""
    if "," in stream:
        raise ValueError(
            "a name has a comma; for several streams say --stream several times, or put spaces"
            " between them in SIDECAR_STREAM"
        )
    return check_name(stream)


def named(option: str, stream: str) -> str:
    """Return the stream's name that `option` gives. Raises `UsageError` as `check_name`."""
    try:
        return check_name(stream)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of everything that belongs to one pair of control and notification stream."""

    control: str
    notifications: str
    dead: str
    prefix: str

    @classmethod
    def of(cls, control: str, notifications: str, dead: str | None = None) -> Keys:
        """Name the keys; the dead-letter stream is `{N}:dead` unless given."""
        prefix = hash_tagged(notifications)
        return cls(control, notifications, dead or f"{prefix}:dead", prefix)

    @property
    def group(self) -> str:
        """The consumer group on the control stream."""
        return f"{GROUP}{self.notifications}"

    @property
    def archivers(self) -> str:
        """A group on the control stream that stands where the archive ends."""
        return f"{ARCHIVERS}{self.notifications}"

    @property
    def stream(self) -> str:
        """Holds the notification stream's name: `x` and `{x}` have the same prefix."""
        return f"{self.prefix}:stream"

    @property
    def fence(self) -> str:
        """Holds the active worker's token; never expires."""
        return f"{self.prefix}:fence:{self.control}"

    @property
    def lease(self) -> str:
        """Holds the active worker's token for as long as it renews it."""
        return f"{self.prefix}:lease:{self.control}"

    @property
    def low(self) -> str:
        """Holds the lowest entry that may be unfinished."""
        return f"{self.prefix}:low:{self.control}"

    @property
    def anchors(self) -> str:
        """A hash: by control stream, entries up to which all is finished and may be forgotten."""
        return f"{self.prefix}:anchors"

    @property
    def halt(self) -> str:
        """A hash: why the stream is halted, and the counts that may halt it."""
        return f"{self.prefix}:halt:{self.control}"

    @property
    def paused(self) -> str:
        """A hash: by tenant, why it alone is paused, since when and by whom."""
        return f"{self.prefix}:paused:{self.control}"

    @property
    def rows(self) -> str:
        """A hash: by tenant, how many of its dead letters came in a row."""
        return f"{self.prefix}:rows:{self.control}"

    @property
    def halts(self) -> str:
        """A stream: what was halted, paused or resumed, when, why and by whom."""
        return f"{self.prefix}:halts"

    @property
    def redriven(self) -> str:
        """A stream: which dead letters were redriven, when and why."""
        return f"{self.prefix}:redriven"

    @property
    def resent(self) -> str:
        """A hash: which events a repair sent again. Repairers write there, and not to the index."""
        return f"{self.prefix}:resent"

    @property
    def tenures(self) -> str:
        """A stream: who owned control streams, and what they found Redis to have forgotten."""
        return f"{self.prefix}:tenures"

    @property
    def takeovers(self) -> str:
        """A stream: which control streams changed hands, when, and between whom."""
        return f"{self.prefix}:takeovers"

    @property
    def workers(self) -> str:
        """A hash: which workers are alive, and which control streams each owns."""
        return f"{self.prefix}:workers"

    @property
    def registered(self) -> str:
        """A set: the names of the registered readers of the notifications."""
        return f"{self.prefix}:registered"

    def reader(self, name: str) -> str:
        """Holds how far the reader `name` is. Only it writes there."""
        return f"{self.prefix}:reader:{name}"

    @property
    def readers(self) -> str:
        """A hash: how far readers of an older release are."""
        return f"{self.prefix}:readers"

    @property
    def trimmed(self) -> str:
        """A hash: by stream, the highest entry ID that trimming took, or is about to take."""
        return f"{self.prefix}:trimmed"

    @property
    def archived(self) -> str:
        """A hash: by stream, the highest entry ID up to which all lies in the archive."""
        return f"{self.prefix}:archived"

    @property
    def fleet(self) -> str:
        """A hash: which store the notifications name, and the id of this log of them."""
        return f"{self.prefix}:fleet"

    @property
    def segments(self) -> str:
        """A hash: by stream, where its last segment in the archive ends, and when it was closed."""
        return f"{self.prefix}:segments"

    def archiving(self, stream: str) -> str:
        """Holds the token of who archives `stream` just now."""
        return f"{self.prefix}:archiving:{stream}"

    @property
    def incarnations(self) -> str:
        """A hash: which histories the notification stream has had, the current one last."""
        return f"{self.prefix}:incarnations"

    @property
    def pruned(self) -> str:
        """Holds how far the deduplication index is pruned, and until when it knew for very long."""
        return f"{self.prefix}:pruned"

    def seen(self, digest: bytes) -> str:
        """A hash: one of the `SHARDS` parts of the deduplication index, the one of `digest`."""
        return f"{self.prefix}:seen:{digest[:2].hex()}"


def streams_of(keys: Keys) -> tuple[str, str, str]:
    """Return the three streams: control entries, notifications, dead letters."""
    return keys.control, keys.notifications, keys.dead


def groups_of(keys: Keys) -> tuple[str, str]:
    """Return both groups on the control stream."""
    return keys.group, keys.archivers


def records_of(keys: Keys) -> tuple[str, str, str]:
    """Return the streams of records: of redrives and repairs, of halts, of tenures."""
    return keys.redriven, keys.halts, keys.tenures


def outbound_of(keys: Keys) -> tuple[str, ...]:
    """Return the streams that lie on the server of the notifications, which only sidecars write."""
    return keys.notifications, keys.dead, *records_of(keys)
