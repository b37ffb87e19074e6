"""How a service takes conditional writes, found out by trying: some take them in one form only.

S3, Azure and GCS take a key's tag as they told it (GCS its generation). Ceph and others refuse each
tag in quotes, the right one, too. Others ignore conditions, or answer 501.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, cast

from store.errors import Unavailable
from store.object.errors import UNKNOWN_HEADER, Conflict, Failed
from store.object.layout import FORMAT, FORMAT_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore import ObjectMeta, PutMode

_Tag = Mapping[str, str | None]
"""What a service tells of a key, as far as it makes a condition."""

_NEVER: _Tag = {"e_tag": f'"{"0" * 32}"', "version": "1"}
_PAUSE_S = 0.2


def _as_told(tag: _Tag) -> dict[str, str]:
    return {name: value for name, value in tag.items() if value is not None}


def _unquoted(tag: _Tag) -> dict[str, str]:
    return {"e_tag": (tag["e_tag"] or "").strip('"')}


def _tag(meta: ObjectMeta) -> _Tag:
    return {"e_tag": meta["e_tag"], "version": meta["version"]}


class _Bucket(Protocol):
    """What is needed of a `Bucket`, which has its conditions in turn."""

    timeout_s: float

    def where(self, key: str) -> str: ...

    def head(self, key: str) -> ObjectMeta | None: ...

    def put(self, key: str, content: bytes, mode: PutMode | None = None) -> None: ...

    def hasty(self, *, retries: bool = True) -> _Bucket: ...


class Conditions:
    """What one service takes as the condition of a write. It is asked when that is first needed."""

    def __init__(self, bucket: _Bucket) -> None:
        self._bucket = bucket
        self._known = False
        self._form: Callable[[_Tag], dict[str, str]] | None = None

    def unchanged(self, meta: ObjectMeta | None) -> PutMode | None:
        """See `Bucket.unchanged`."""
        if not self.hold() or self._form is None:
            return None
        return "create" if meta is None else _mode(self._form(_tag(meta)))

    def hold(self) -> bool:
        """Tell whether the service has conditional writes. Raises `Unavailable`."""
        if not self._known:
            self._form = self._find()
            self._known = True
        return self._form is not None

    def doubt(self) -> None:
        """Ask anew when next needed: it refused what had not changed."""
        self._known = False

    def _find(self) -> Callable[[_Tag], dict[str, str]] | None:
        """Return the form in which a wrong tag is refused, and the right one taken.

        It writes STORE as it is. Nothing shows whether the wrong one was refused for its form: so
        both are tried in each.
        """
        if not self._refuses("create"):
            return None
        for form in (_as_told, _unquoted):
            if self._refuses(_mode(form(_NEVER))) and self._takes(form):
                return form
        return None

    def _refuses(self, mode: PutMode) -> bool:
        try:
            # Once without retries: those who answer 501 would do so until the time is over.
            return self._is_refused(self._bucket.hasty(retries=False), mode)
        except Unavailable:
            return self._is_refused(self._bucket, mode)

    def _is_refused(self, bucket: _Bucket, mode: PutMode) -> bool:
        try:
            bucket.put(FORMAT_KEY, FORMAT, mode)
        except Conflict:
            return True
        except Failed as error:
            if error.status != UNKNOWN_HEADER:
                raise
        return False

    def _takes(self, form: Callable[[_Tag], dict[str, str]]) -> bool:
        """Tell whether the right tag is taken, for as long as others keep changing it."""
        deadline = time.monotonic() + self._bucket.timeout_s
        tag = self._mark()
        while self._is_refused(self._bucket, _mode(form(tag))):
            before, tag = tag, self._mark()
            if before == tag:
                return False
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"others keep writing {self._bucket.where(FORMAT_KEY)}: try again"
                )
            time.sleep(random.uniform(0, _PAUSE_S))  # noqa: S311 - to part the writers, no secret
        return True

    def _mark(self) -> _Tag:
        meta = self._bucket.head(FORMAT_KEY)
        if meta is None:
            raise Unavailable(f"{self._bucket.where(FORMAT_KEY)} is missing: restore it")
        return _tag(meta)


def _mode(condition: dict[str, str]) -> PutMode:
    return cast("PutMode", condition)
