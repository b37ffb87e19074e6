"""Runs a command, and kills it at the N-th name that it makes, moves or removes on disk, or script
that it sends to Redis: `python -m tests.cli.dying N tenant erase …`. It exits as the command does.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import redis

from sidecar.cli import main


def _dying(function: Callable[..., Any], calls: itertools.count[int], last: int) -> Any:
    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if next(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)

    return call


if __name__ == "__main__":
    counted, at = itertools.count(1), int(sys.argv.pop(1))
    for name in ("link", "rename", "unlink"):
        setattr(os, name, _dying(getattr(os, name), counted, at))
    redis.Redis.evalsha = _dying(redis.Redis.evalsha, counted, at)  # type: ignore[method-assign]
    main()
