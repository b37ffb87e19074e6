"""How long processes race each other over a store."""

from __future__ import annotations

import os
from typing import Final

RACE_S: Final = float(os.environ.get("STORE_RACE_SECONDS", "1"))
"""`make test-slow` says more."""
