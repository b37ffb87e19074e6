"""Many refs at once: as the backend does it with `Capability.MANY`, else one after the other."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Final

from store.contract import Capability, Listed
from store.errors import Corrupt, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from store.contract import VersionedStore

AT_ONCE: Final = 1000
"""Of so many refs the versions are asked for together: memory is bounded."""


def versions_of(store: VersionedStore, refs: Iterable[str]) -> Iterator[Listed]:
    """Yield the versions of each ref that is there, in no promised order.

    Raises as `VersionedStore.versions`, but for `NotFound` and `Corrupt`.
    """
    rest = iter(refs)
    while some := list(islice(rest, AT_ONCE)):
        if Capability.MANY in store.capabilities:
            yield from store.versions_of(some)
        else:
            yield from one_by_one(store, some)


def one_by_one(store: VersionedStore, refs: Iterable[str]) -> Iterator[Listed]:
    """Yield the same by `versions` of each."""
    for ref in refs:
        try:
            yield Listed(ref, tuple(store.versions(ref)))
        except NotFound:
            continue
        except Corrupt as error:
            yield Listed(ref, (), error)


def delete_all(
    store: VersionedStore, refs: Iterable[str], *, unused_s: float = 0.0
) -> Iterator[str]:
    """Delete refs; yield those of which anything was removed, as `VersionedStore.delete_all`.

    Raises as `VersionedStore.delete`.
    """
    if Capability.MANY in store.capabilities:
        return store.delete_all(refs, unused_s=unused_s)
    return delete_each(store, refs, unused_s=unused_s)


def delete_each(store: VersionedStore, refs: Iterable[str], *, unused_s: float) -> Iterator[str]:
    """Do the same by `delete` of each."""
    began = time.monotonic()
    for ref in refs:
        since_s = time.monotonic() - began if unused_s else 0.0
        if store.delete(ref, unused_s=unused_s + since_s):
            yield ref
