"""What is meant where nothing is named: docs/contract.md, "Command line"."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DATA_DIR: Final = Path(".sidecar")
STREAM: Final = "control:events"
NOTIFY_STREAM: Final = "control:notifications"
