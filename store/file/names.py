"""What a Put publishes: the names of objects and records, in an order that a power cut may end.

Files are immutable: they are written and flushed under tmp/, and one rename publishes the pair.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from store.errors import Corrupt
from store.file import aside, records, upkeep
from store.file.layout import QUARANTINE, Place, object_of, place_of
from store.healing import later
from store.record import Record, header_of

if TYPE_CHECKING:
    from store.file.tree import Tree


class Names:
    """Names what was written in one tree. Every method may raise `OSError`."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def name_object(self, temporary: str, digest: str, size: int) -> None:
        """Give an object, which is flushed, its name; heal what is there and damaged."""
        directory_fd = self._tree.enter_durable(object_of(digest))
        try:
            if self._freshened(directory_fd, digest, size):
                self._tree.discard(temporary)
            else:
                self._tree.rename(temporary, directory_fd, digest)
            # Also when it was there: another writer's rename may not be durable yet.
            os.fsync(directory_fd)
        finally:
            os.close(directory_fd)

    def _freshened(self, directory_fd: int, digest: str, size: int) -> bool:
        """Tell whether the object is there and intact, and is now marked as in use.

        A corrupt one is kept in quarantine: a link, not a rename, so that readers of its name
        see the old content or the new, and no gap.
        """
        try:
            path = self._tree.path(*object_of(digest), digest)
            if records.digest_of(self._tree, directory_fd, digest, path, size) == digest:
                os.utime(digest, dir_fd=directory_fd, follow_symlinks=False)
                return True
        except (FileNotFoundError, PermissionError, Corrupt):
            return False  # nothing there, not ours, or a link: the rename replaces it
        with self._tree.directory((QUARANTINE,)) as quarantine_fd:
            if quarantine_fd is not None:
                kept = f"{digest}.{self._tree.unique()}"
                aside.keep(self._tree, directory_fd, digest, kept, quarantine_fd)
        return False

    def put_record(self, record: Record, body: bytes) -> None:
        """Write a record, name it, and make it the ref's current one if it is not older."""
        place = place_of(record.ref)
        directory_fd = self._tree.enter_durable(place.way)
        try:
            if not self._stays(directory_fd, place, record, body):
                self._publish(directory_fd, place, record, body)
            # Also when nothing was written: another writer's names may not be durable yet.
            os.fsync(directory_fd)
        finally:
            os.close(directory_fd)

    def _stays(self, directory_fd: int, place: Place, record: Record, body: bytes) -> bool:
        """Tell whether nothing is to be written, and mark what is there as in use.

        Deletion spares what is in use. It looks under the lock, so that what this Put relies on
        either is gone before, or is seen to be in use.
        """
        version = place.version(record)
        try:
            os.stat(version, dir_fd=directory_fd, follow_symlinks=False)
            with self._tree.locked(upkeep.lock_of_records(place.path), shared=True):
                if not self._holds(directory_fd, place, record, body):
                    return False
                os.utime(version, dir_fd=directory_fd, follow_symlinks=False)
                return True
        except (FileNotFoundError, PermissionError):
            return False  # a first Put, or not ours to mark: written anew

    def _holds(self, directory_fd: int, place: Place, record: Record, body: bytes) -> bool:
        """Tell whether the ref is intact and already where this Put would move it."""
        try:
            version = os.stat(place.version(record), dir_fd=directory_fd, follow_symlinks=False)
            current = records.read(self._tree, directory_fd, place, place.leaf)
            return (
                current.inode == version.st_ino
                and current.record.is_version(record.data_digest, record.manifest_digest)
                and later(record.position, current.record.position) == current.record.position
                and current.size == current.body_at + len(body)
                and records.whole(self._tree, current).content[current.body_at :] == body
            )
        except (FileNotFoundError, PermissionError, Corrupt):
            return False  # written anew, and so healed

    def _publish(self, directory_fd: int, place: Place, record: Record, body: bytes) -> None:
        tree, lock_fd = self._tree, None
        temporary = tree.write(header_of(record), body)
        try:  # no context managers: each would cost every small Put
            lock_fd = tree.lock(upkeep.lock_of_records(place.path))
            aimed = records.aim_at(tree, directory_fd, place, record)
            settled = aimed.settled(record)
            if settled != record:
                tree.discard(temporary)
                temporary = tree.write(header_of(settled), body)
            self._name(directory_fd, place, settled, temporary, aimed)
        except BaseException:
            tree.discard(temporary)
            raise
        finally:
            if lock_fd is not None:
                os.close(lock_fd)

    def _name(
        self, directory_fd: int, place: Place, record: Record, temporary: str, aimed: records.Aimed
    ) -> None:
        if aimed.aim.moves:
            self._point(directory_fd, place, record, temporary, aimed.links)
        else:
            self._tree.rename(temporary, directory_fd, place.version(record))
            if aimed.current:
                self._restore(directory_fd, place, aimed.current)

    def _restore(self, directory_fd: int, place: Place, current: Record) -> None:
        """Write the current record anew, if it is damaged and its version's own is intact."""
        if records.intact(self._tree, directory_fd, place, place.leaf):
            return
        own = records.intact(self._tree, directory_fd, place, place.version(current))
        if own:
            record = own.record._replace(position=current.position)
            self._renew(directory_fd, place, record, own.content[own.body_at :])

    def _renew(self, directory_fd: int, place: Place, record: Record, body: bytes) -> None:
        temporary = self._tree.write(header_of(record), body)
        with self._tree.discarding(temporary):
            self._point(directory_fd, place, record, temporary)

    def _point(
        self, directory_fd: int, place: Place, record: Record, temporary: str,
        links: int | None = None,
    ) -> None:  # fmt: skip
        """Give the file its version's name, then make it the ref's current record.

        `links` as in `records.Aimed`.
        """
        tree, version = self._tree, place.version(record)
        try:
            os.link(temporary, version, src_dir_fd=tree.tmp_fd, dst_dir_fd=directory_fd)
        except FileExistsError:
            # The same content, intact or not: replacing it heals it and makes it the newest.
            twin = tree.twin(temporary)
            with tree.discarding(twin):
                tree.rename(twin, directory_fd, version)
        if links in (None, 1):
            self._keep_current(directory_fd, place)
        tree.rename(temporary, directory_fd, place.leaf)

    def _keep_current(self, directory_fd: int, place: Place) -> None:
        """Give the current record its version's name, if only the other one leads to it.

        A power cut kept only that: its Put never returned, but the version could be read since, so
        it stays readable. Or the version's own record is a file by itself, and damaged.
        """
        leaf = place.leaf
        with contextlib.suppress(FileNotFoundError, PermissionError, Corrupt):
            if os.stat(leaf, dir_fd=directory_fd, follow_symlinks=False).st_nlink == 1:
                version = place.version(records.header(self._tree, directory_fd, place, leaf))
                try:
                    os.link(leaf, version, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
                except FileExistsError:
                    self._heal_version(directory_fd, place, version)

    def _heal_version(self, directory_fd: int, place: Place, version: str) -> None:
        tree = self._tree
        if not records.intact(tree, directory_fd, place, version) and records.intact(
            tree, directory_fd, place, place.leaf
        ):
            twin = tree.unique()
            os.link(place.leaf, twin, src_dir_fd=directory_fd, dst_dir_fd=tree.tmp_fd)
            with tree.discarding(twin):
                tree.rename(twin, directory_fd, version)
