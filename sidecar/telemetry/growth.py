"""How many entries follow one, without reading them: told by how the stream grew. Pure."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from sidecar.redis.scan import StreamInfo

MOST_MARKS: Final = 1000


class Growth:
    """Where a stream of notifications was how long, as it was seen now and then.

    Between two marks it is taken to have grown evenly.
    """

    def __init__(self) -> None:
        self._versions: list[int] = []
        self._counts: list[int] = []
        """By mark: the control_version, and how many notifications there had ever been by it."""

    def note(self, info: StreamInfo) -> None:
        """Note how long the stream is. Redis before 7.0 does not tell, and so nothing is noted."""
        if info.added is None:
            return
        last = info.last_id.control_version
        if self._counts and (info.added < self._counts[-1] or last < self._versions[-1]):
            self._versions, self._counts = [], []  # it was made anew
        if not self._counts and info.first_id:
            self._mark(info.first_id.control_version - 1, info.added - info.length)
        self._mark(last, info.added)

    def since(self, control_version: int) -> int | None:
        """Return about how many notifications came after one; None when that is not known."""
        if not self._counts:
            return None
        above = bisect_right(self._versions, control_version)
        if above == len(self._versions):
            return 0
        if not above:
            return self._counts[-1] - self._counts[0]
        low, high = self._versions[above - 1], self._versions[above]
        step = self._counts[above] - self._counts[above - 1]
        part = (high - control_version) / (high - low)
        return self._counts[-1] - self._counts[above] + max(1, round(step * part))

    def _mark(self, version: int, count: int) -> None:
        if self._versions and self._versions[-1] == version:
            self._counts[-1] = count
            return
        self._versions.append(version)
        self._counts.append(count)
        if len(self._versions) > MOST_MARKS:  # the older, the fewer
            del self._versions[1:-2:2], self._counts[1:-2:2]
