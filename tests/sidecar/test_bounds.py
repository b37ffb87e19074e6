"""What somebody planted in the fleet store is looked at before it is read, by each reader."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import store
from sidecar.errors import SidecarError
from sidecar.feed import Feed
from sidecar.history.archive import ArchiveHistory, apart
from sidecar.history.checkpoints import newest_checkpoint
from sidecar.history.contract import Streams
from sidecar.ops.audit import what_is_wrong
from sidecar.replay import report
from sidecar.stores import open_reader
from sidecar.wire import logbook
from sidecar.wire.bounds import MAX_MANIFEST_BYTES
from sidecar.wire.event import Event
from sidecar.wire.ids import LAST
from sidecar.wire.notification import Notification
from store import Corrupt, Pin, TooLarge, VersionedStore, checksum_of

REF = "stacks/t/web"
SEGMENT = ".sidecar/archive/n/n/1-0..2-0"
HUGE = bytes(MAX_MANIFEST_BYTES + 1)
PIN = Pin(REF, checksum_of(b"data"), checksum_of(HUGE))
ABOUT: dict[str, Any] = {
    "event_id": "e", "type": "run.abort", "artifact_ref": REF, "checksum": PIN.checksum,
    "manifest_checksum": PIN.manifest_checksum,
}  # fmt: skip


class Life(NamedTuple):
    """So much of a life as the report's comparison looks at."""

    event: Event


def feed(fleet: VersionedStore) -> Feed:
    """Return a feed that asks no server."""
    found = Feed("redis://localhost:1", store=fleet)
    found._artifacts.is_fleets = True
    return found


def archive(fleet: VersionedStore) -> ArchiveHistory:
    """Return what lies in the archive."""
    return ArchiveHistory(fleet, Streams(("n",), "n", "n", "n", "n", "n"))


READERS: dict[str, Callable[[Any], object]] = {
    "audit": lambda fleet: what_is_wrong(fleet, PIN) == ("", 4),
    "feed, resolved": lambda fleet: feed(fleet)._artifacts.get(Notification(**ABOUT)),
    "feed, opened": lambda fleet: feed(fleet)._artifacts.open(Notification(**ABOUT)),
    "store get, export": lambda fleet: open_reader(fleet, REF, {}),
    "report": lambda fleet: report._data(Life(Event(**ABOUT)), fleet),  # type: ignore[arg-type]
    "logs": logbook.registered,
    "checkpoint": lambda fleet: newest_checkpoint(fleet, "n", LAST),
    "segment": lambda fleet: list(archive(fleet).entries("n")),
    "rows of a segment": lambda fleet: archive(fleet).rows(archive(fleet).names("n")[0]),
    "another segment": lambda fleet: apart(
        fleet, SEGMENT, b'{"format":1,"stream":"n","first":"1-0","last":"2-0","rows":1,"sha256":""}'
    ) != SEGMENT,
}  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> VersionedStore:
    """Return a store with a manifest that is too large, wherever something reads one."""
    fleet: Any = store.open_url(tmp_path_factory.mktemp("fleet").as_uri())
    for ref in (REF, f"{logbook.ROOT}/log", ".sidecar/archive/n@state/1-0", SEGMENT):
        fleet.put(ref, b"data", HUGE)
    return fleet  # type: ignore[no-any-return]


def refused(reader: Callable[[Any], object], fleet: VersionedStore) -> bool:
    """Tell whether a reader refuses what it finds, or passes it over."""
    try:
        return not reader(fleet)
    except TooLarge:
        return True
    except (SidecarError, Corrupt) as error:
        cause = error.__cause__
        return isinstance(cause, TooLarge) or isinstance(cause and cause.__cause__, TooLarge)


@pytest.mark.parametrize("reader", READERS)
def test_a_manifest_that_is_too_large_is_not_read(planted: VersionedStore, reader: str) -> None:
    """It is refused, or passed over, and takes no memory."""
    tracemalloc.start()
    try:
        assert refused(READERS[reader], planted)
        assert tracemalloc.get_traced_memory()[1] < MAX_MANIFEST_BYTES
    finally:
        tracemalloc.stop()
