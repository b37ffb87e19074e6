"""The file backend: `backend` puts and gets, `upkeep` verifies and collects garbage.

`layout` says where everything lies, `tree` walks the directories, `records` reads, `copying` writes
large data, `root` opens or makes the root.
"""

from __future__ import annotations

from store.file.backend import FileStore, open_file

__all__ = ["FileStore", "open_file"]
