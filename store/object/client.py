"""The object backend's way to its bucket: where it is, and each request with its errors explained.

Retries are obstore's: a request is repeated, with backoff, while `timeout_s` has not passed since
it began (5xx, 429, refused and broken connections; a hanging one that may be repeated). What
obstore does not repeat is done here: a listing, or a body, that breaks off continues where it was.
Whether a write that failed was applied all the same is for who wrote it to find out.
"""

from __future__ import annotations

import contextlib
import os
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from store.errors import ConfigError, Unavailable
from store.forked import OneProcess
from store.object.conditions import Conditions
from store.object.errors import (
    ABSENT,
    EMPTY,
    NO_BUCKET,
    UNKNOWN_HEADER,
    Absent,
    BrokenOff,
    Conflict,
    Failed,
    failed,
    reason,
)
from store.object.layout import CLOCK, CLOCK_KEY
from store.record import FIRST_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from obstore import BytesStream, GetOptions, GetResult, ListStream, ObjectMeta, PutMode
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Store

    from store.object.urls import Location

PART_BYTES = 8 << 20
"""What a multipart upload sends at a time; two parts at once, 10,000 at most on S3."""
_PARTS_AT_ONCE = 2
_PAGE_KEYS = 1000
_PAUSE_S = 0.1

_Answer = TypeVar("_Answer")


class Got(NamedTuple):
    """What lies at a key."""

    content: bytes
    meta: ObjectMeta


class Bucket:
    """One prefix of one bucket. Keys are relative to it; every method raises `Unavailable`."""

    def __init__(self, location: Location, timeout_s: float, *, retries: bool = True) -> None:
        """Connect nowhere yet. Raises `ConfigError` for settings that cannot be."""
        self.location = location
        self._process = OneProcess("it lacks the threads that carry requests")
        self.timeout_s = timeout_s
        try:
            import obstore
        except ImportError:
            raise ConfigError(
                "the object backend needs the package obstore; install it, or, in a checkout:"
                " pip install '.[object]'"
            ) from None
        self._obstore = obstore
        self._errors = obstore.exceptions
        self._store = self._connect(retry_s=timeout_s if retries else 0)
        self.conditions = Conditions(self)
        self._hasty: dict[bool, Bucket] = {}

    def _connect(self, *, retry_s: float) -> S3Store | GCSStore | AzureStore:
        from obstore import store as stores

        scheme, bucket, prefix = self.location
        settings: dict[str, Any] = {
            "client_options": self._client_options(), "retry_config": self._retrying(retry_s),
            **({"prefix": prefix} if prefix else {}),
        }  # fmt: skip
        try:
            if scheme == "gs":
                return stores.GCSStore(bucket, **settings)
            if scheme == "az":
                return stores.AzureStore(bucket, **settings)
            if self.location.endpoint:
                settings["endpoint"] = self.location.endpoint
            return stores.S3Store(bucket, **settings)
        except Exception as error:  # noqa: BLE001 - whatever obstore says of its settings
            raise ConfigError(f"cannot open {self.location}: {reason(error)}") from None

    def _client_options(self) -> ClientConfig:
        timeout = timedelta(seconds=self.timeout_s)
        options: ClientConfig = {
            "timeout": timedelta(days=365),  # of a whole transfer, however large: none
            "read_timeout": timeout,
            "connect_timeout": min(timeout, timedelta(seconds=5)),
        }
        emulated = os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() == "true"
        if not (emulated and self.location.scheme == "az"):  # that one speaks http, obstore knows
            options["allow_http"] = self.location.endpoint.lower().startswith("http://")
        return options

    def _retrying(self, retry_s: float) -> RetryConfig:
        timeout = timedelta(seconds=self.timeout_s)
        return {
            "max_retries": 1000 if retry_s else 0,
            "retry_timeout": timedelta(seconds=retry_s),
            "backoff": {
                "init_backoff": min(timeout / 100, timedelta(seconds=0.1)),
                "max_backoff": min(timeout / 4, timedelta(seconds=5)),
            },
        }

    def where(self, key: str) -> str:
        """Return a key as an operator finds it."""
        return f"{self.location}/{key}"

    # Reading.

    def get(self, key: str, *, first_bytes: int = FIRST_BYTES) -> Got | None:
        """Return the first bytes of what lies at `key`, or None."""
        options: GetOptions = {"range": (0, first_bytes)}

        def get() -> Got:
            result = self._obstore.get(self._store, key, options=options)
            content, (begin, end) = result.bytes().to_bytes(), result.range
            if len(content) != end - begin:
                raise self._cut(key)
            return Got(content, result.meta)

        try:
            return self._request(f"read {key}", get)
        except Absent:
            return None
        except Failed as error:
            if error.status != EMPTY:
                raise
            meta = self.head(key)
            return meta and Got(b"", meta)

    def head(self, key: str) -> ObjectMeta | None:
        """Return what is known of `key`, or None."""
        try:
            return self._request(f"look for {key}", partial(self._obstore.head, self._store, key))
        except Absent:
            return None

    def start(self, key: str, options: GetOptions | None) -> GetResult:
        """Ask for `key`, to read it piece by piece. Raises `Absent` and `Conflict`."""
        get = partial(self._obstore.get, self._store, key, options=options)
        return self._request(f"read {key}", get, has_condition=True)

    def next_chunk(self, chunks: BytesStream, key: str) -> bytes:
        """Return the next piece of an answer, which has one left. Raises `BrokenOff`."""
        with self._explained(f"read {key}"):
            chunk = bytes(next(chunks, b""))
        if not chunk:
            raise self._cut(key)
        return chunk

    def _cut(self, key: str) -> BrokenOff:
        return BrokenOff(f"cannot read {key} at {self.location}: the answer ends before its end", 0)

    def keys(self, folder: str, after: str | None = None) -> Iterator[ObjectMeta]:
        """Yield what lies in `folder`, at every depth, in the order of the keys, behind `after`."""
        offset = after
        progress = time.monotonic()
        while True:
            pages = self._obstore.list(self._store, folder, offset=offset, chunk_size=_PAGE_KEYS)
            try:
                while page := self._next_page(pages, folder):
                    offset, progress = page[-1]["path"], time.monotonic()
                    yield from page
            except BrokenOff:
                if time.monotonic() - progress > self.timeout_s:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    def _next_page(
        self, pages: ListStream[Sequence[ObjectMeta]], folder: str
    ) -> Sequence[ObjectMeta]:
        try:
            with self._explained(f"list {folder}/"):
                return next(pages, ())
        except (Absent, Failed) as error:
            if isinstance(error, Failed) and error.status != ABSENT:
                raise
            raise Unavailable(f"cannot list {self.location}: {NO_BUCKET}") from None

    # Writing.

    def put(self, key: str, content: bytes, mode: PutMode | None = None) -> None:
        """Write `key`, whole or not at all. Raises `Conflict` when `mode` does not let it."""
        put = partial(
            self._obstore.put,
            self._store,
            key,
            content,
            mode=mode,
            chunk_size=PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
        )
        try:
            with self._in_bucket(f"write {key}"):
                self._request(f"write {key}", put, has_condition=mode is not None)
        except Absent as error:
            # What a condition spoke of is gone.
            raise Conflict if mode else Unavailable(str(error)) from None

    def upload(self, key: str, chunks: Iterator[bytes]) -> None:
        """Write `key` from chunks, in constant memory. What `chunks` raises comes through.

        Then nothing was written, and the parts are thrown away. Where the last step fails, it may
        have been written all the same.
        """
        writer = self._obstore.open_writer(
            self._store, key, buffer_size=PART_BYTES, max_concurrency=_PARTS_AT_ONCE
        )
        try:
            for chunk in chunks:
                with self._writing(key):
                    writer.write(chunk)
        except BaseException as error:
            with contextlib.suppress(OSError, self._errors.BaseError):
                writer.__exit__(type(error), error, error.__traceback__)
            raise
        with self._writing(key):
            writer.close()

    def copy(self, key: str, target: str) -> None:
        """Copy `key` to `target`, on the service's side. Raises `Absent` when it is gone."""
        with self._in_bucket(f"copy {key}"):
            self._request(f"copy {key}", partial(self._obstore.copy, self._store, key, target))

    def delete(self, key: str) -> None:
        """Remove `key`, if it is there."""
        with contextlib.suppress(Absent):
            self._request(f"remove {key}", partial(self._obstore.delete, self._store, key))

    @contextlib.contextmanager
    def _in_bucket(self, doing: str) -> Iterator[None]:
        """Tell a 404 that means the bucket, and is `Unavailable`, from one that means a key."""
        try:
            yield
        except Absent as error:
            next(self.keys(""), None)  # raises when the bucket is gone
            raise Absent(f"cannot {doing} at {self.location}: {error}") from None

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            with self._in_bucket(f"write {key}"), self._explained(f"write {key}"):
                yield
        except Absent as error:
            raise Unavailable(str(error)) from None

    # What the service can do, and its clock.

    def unchanged(self, meta: ObjectMeta | None) -> PutMode | None:
        """Return the mode that writes a key only if it is still as `meta` says: absent, if None.

        None, which writes whatever is there, where the service has no conditional writes.
        """
        return self.conditions.unchanged(meta)

    def hasty(self, *, retries: bool = True) -> Bucket:
        """Return the same one for who does not wait for long."""
        if retries not in self._hasty:
            self._hasty[retries] = Bucket(self.location, self.timeout_s / 4, retries=retries)
        return self._hasty[retries]

    def now(self) -> float:
        """Return the service's time in seconds since the epoch, not later than it is."""
        self.put(CLOCK_KEY, b"")
        for meta in self.keys(CLOCK):  # a listing, as ages are taken from listings
            return meta["last_modified"].timestamp()
        raise Unavailable(f"{self.where(CLOCK_KEY)} vanished: try again")

    # What goes wrong.

    def _request(
        self, doing: str, request: Callable[[], _Answer], *, has_condition: bool = False
    ) -> _Answer:
        """Do what may be done twice, again if its answer breaks off, while `timeout_s` lasts."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                with self._explained(doing, has_condition=has_condition):
                    return request()
            except BrokenOff:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)

    @contextlib.contextmanager
    def _explained(self, doing: str, *, has_condition: bool = False) -> Iterator[None]:
        """Turn obstore's errors into the contract's, `Absent`, or `Conflict` if it can be one.

        The original is not chained: its text repeats what the service said, whatever that is.
        """
        self._process.check()  # it would wait for ever
        try:
            yield
        except (self._errors.AlreadyExistsError, self._errors.PreconditionError) as error:
            if has_condition:
                raise Conflict from None
            raise failed(error, doing, self.location) from None
        except self._errors.NotSupportedError:
            raise Failed(f"cannot {doing} at {self.location}", UNKNOWN_HEADER) from None
        except FileNotFoundError as error:
            raise Absent(reason(error)) from None
        except (self._errors.BaseError, OSError) as error:
            raise failed(error, doing, self.location) from None
