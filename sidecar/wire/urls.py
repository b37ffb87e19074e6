"""URLs as they may be shown."""

from __future__ import annotations

import re


def redact(url: str) -> str:
    """Return `url` without its passwords, fit for a log."""
    shown = re.sub(r"(password=)[^&]*", r"\1***", url)
    return re.sub(r"(://[^:@/]*):.*@", r"\1:***@", shown, flags=re.DOTALL)
