"""What is damaged, kept in quarantine, also where it is another user's."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from store.file.copying import copy_reader, source_of

if TYPE_CHECKING:
    from store.file.tree import Tree


def keep(tree: Tree, directory_fd: int, name: str, kept: str, quarantine_fd: int) -> None:
    """Give a file a second name in quarantine, or a copy; readers of its own name see no gap.

    Raises OSError, and `Corrupt` for what can be neither linked nor read.
    """
    names = {"src_dir_fd": directory_fd, "dst_dir_fd": quarantine_fd}
    try:  # Linux lets nobody link what is another's and he may not write (protected_hardlinks)
        os.link(name, kept, **names, follow_symlinks=False)
    except PermissionError:
        damaged = tree.open_plain(name, directory_fd, name)[0]
        with io.FileIO(damaged) as file, tree.temporary() as (copy, fd):
            copy_reader(fd, b"", file, source_of(file))
            tree.rename(copy, quarantine_fd, kept)
