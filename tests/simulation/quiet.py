"""A logger that says nothing, and says so before anything is put into words."""

from __future__ import annotations

from typing import Any, Final, cast

from structlog.typing import FilteringBoundLogger


class _Quiet:
    def is_enabled_for(self, _: int) -> bool:
        return False

    def info(self, *_: Any, **__: Any) -> None:
        pass

    warning = debug = error = exception = info


QUIET: Final = cast("FilteringBoundLogger", _Quiet())
