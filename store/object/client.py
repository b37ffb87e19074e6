"""The object backend's way to its bucket: where it is, and each request with its errors explained.

Retries are obstore's: a request is repeated, with backoff, while `timeout_s` has not passed since
it began (5xx, 429, refused and broken connections; a hanging one that may be repeated). What
obstore does not repeat is done here: a listing, or a body, that breaks off continues where it was.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from store.errors import ConfigError, Unavailable
from store.object.layout import CLOCK, CLOCK_KEY, FORMAT, FORMAT_KEY
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
_NO_BUCKET = "the bucket does not exist: make it, or name another one"

_EMPTY = 416  # no range of an empty object can be had
_UNKNOWN_HEADER = 501
_MAY_NOT = {401, 403}

_STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_FIXES = (
    (r"status code: 401", "it does not accept the credentials: check them, and the clock"),
    (
        r"status code: 403",
        "let the credentials read, write, list and delete there (without list, S3 hides absence)",
    ),
    (r"status code: 404", _NO_BUCKET),
    (r"status code: 3\d\d|redirect", "the bucket lies elsewhere: set AWS_REGION or the endpoint"),
    (r"status code: 4\d\d", "it does not accept the request: look at the settings"),
    (r"dns error", "its name does not resolve: check the endpoint, and DNS"),
    (r"kind: Connect", "it does not let us connect: check the endpoint, and the network"),
    (r"TimedOut|kind: Timeout", "it does not answer in time"),
    (r"Missing(AccessKeyId|SecretAccessKey|Account)|[Cc]redential", "set its credentials, whole"),
    (r"BadScheme", "it is not https: write http:// in the endpoint if that is meant"),
)


_Answer = TypeVar("_Answer")


class Conflict(Exception):
    """The key changed, or came to be, since it was looked at."""


class Absent(Exception):
    """There is no such key, or no such bucket."""


class _Failed(Unavailable):
    """A request failed; `status` is the answer's, 0 when none came."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotAllowed(_Failed):
    """The credentials do not allow the request."""


class BrokenOff(_Failed):
    """The answer's body did not come to its end."""


class Got(NamedTuple):
    """What lies at a key."""

    content: bytes
    meta: ObjectMeta


class Bucket:
    """One prefix of one bucket. Keys are relative to it; every method raises `Unavailable`."""

    def __init__(self, location: Location, timeout_s: float) -> None:
        """Connect nowhere yet. Raises `ConfigError` for settings that cannot be."""
        self.location = location
        self.timeout_s = timeout_s
        try:
            import obstore
        except ImportError:
            raise ConfigError(
                "the object backend needs the package obstore: pip install artifact-sidecar[object]"
            ) from None
        self._obstore = obstore
        self._errors = obstore.exceptions
        self._store = self._connect(retry_s=timeout_s)
        self._conditional: bool | None = None

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
            raise ConfigError(f"cannot open {self.location}: {_reason(error)}") from None

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
            return Got(result.bytes().to_bytes(), result.meta)

        try:
            return self._request(f"read {key}", get)
        except Absent:
            return None
        except _Failed as error:
            if error.status != _EMPTY:
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
        return self._request(f"read {key}", get)

    def next_chunk(self, chunks: BytesStream, key: str) -> bytes:
        """Return the next piece of an answer; empty at its end."""
        with self._explained(f"read {key}"):
            return bytes(next(chunks, b""))

    def keys(self, folder: str) -> Iterator[ObjectMeta]:
        """Yield what lies in `folder`, at every depth, in the order of the keys."""
        offset: str | None = None
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
        except Absent:
            raise Unavailable(f"cannot list {self.location}: {_NO_BUCKET}") from None

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
        with self._in_bucket():
            self._request(f"write {key}", put)

    def upload(self, key: str, chunks: Iterator[bytes]) -> None:
        """Write `key` from chunks, in constant memory. What `chunks` raises comes through.

        Then, and when it fails, nothing was written, and the parts are thrown away.
        """
        writer = self._obstore.open_writer(
            self._store, key, buffer_size=PART_BYTES, max_concurrency=_PARTS_AT_ONCE
        )
        try:
            for chunk in chunks:
                with self._in_bucket(), self._explained(f"write {key}"):
                    writer.write(chunk)
        except BaseException as error:
            with contextlib.suppress(OSError, self._errors.BaseError):
                writer.__exit__(type(error), error, error.__traceback__)
            raise
        with self._in_bucket(), self._explained(f"write {key}"):
            writer.close()

    def copy(self, key: str, target: str) -> None:
        """Copy `key` to `target`, on the service's side."""
        with self._in_bucket():
            self._request(f"copy {key}", partial(self._obstore.copy, self._store, key, target))

    def delete(self, key: str) -> None:
        """Remove `key`, if it is there."""
        with contextlib.suppress(Absent):
            self._request(f"remove {key}", partial(self._obstore.delete, self._store, key))

    @contextlib.contextmanager
    def _in_bucket(self) -> Iterator[None]:
        """A write is answered with absence where there is no bucket."""
        try:
            yield
        except Absent:
            raise Unavailable(f"cannot write to {self.location}: {_NO_BUCKET}") from None

    # What the service can do, and its clock.

    def unchanged(self, meta: ObjectMeta | None) -> PutMode | None:
        """Return the mode that writes a key only if it is still as `meta` says: absent, if None.

        None, which writes whatever is there, where the service has no conditional writes.
        """
        if not self._is_conditional():
            return None
        return _condition(meta["e_tag"], meta["version"]) if meta else "create"

    def _is_conditional(self) -> bool:
        """Find out, once, by a write to STORE that must fail, and changes nothing otherwise."""
        if self._conditional is None:
            try:
                # Once without retries: those who answer 501 would do so until the time is over.
                self._conditional = self._refuses(self._connect(retry_s=0))
            except Unavailable:
                self._conditional = self._refuses(self._store)
        return self._conditional

    def _refuses(self, store: S3Store | GCSStore | AzureStore) -> bool:
        try:
            with self._in_bucket(), self._explained("try a conditional write"):
                self._obstore.put(store, FORMAT_KEY, FORMAT, mode=_condition('"0"', "1"))
        except Conflict:
            return True
        except _Failed as error:
            if error.status != _UNKNOWN_HEADER:
                raise
        return False

    def now(self) -> float:
        """Return the service's time in seconds since the epoch, not later than it is."""
        self.put(CLOCK_KEY, b"")
        for meta in self.keys(CLOCK):  # a listing, as ages are taken from listings
            return meta["last_modified"].timestamp()
        raise Unavailable(f"{self.where(CLOCK_KEY)} vanished: try again")

    # What goes wrong.

    def _request(self, doing: str, request: Callable[[], _Answer]) -> _Answer:
        """Do what may be done twice, again if its answer breaks off, while `timeout_s` lasts."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                with self._explained(doing):
                    return request()
            except BrokenOff:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn obstore's errors into the contract's, `Conflict` or `Absent`.

        The original is not chained: its text repeats what the service said, whatever that is.
        """
        try:
            yield
        except (self._errors.AlreadyExistsError, self._errors.PreconditionError):
            raise Conflict from None
        except self._errors.NotSupportedError:
            raise _Failed(f"cannot {doing} at {self.location}", _UNKNOWN_HEADER) from None
        except FileNotFoundError:
            raise Absent from None
        except (self._errors.BaseError, OSError) as error:
            found = _STATUS.search(str(error))
            status = int(found[1][:3]) if found else 0
            kind = BrokenOff if "response body" in str(error) else _Failed
            message = f"cannot {doing} at {self.location}: {_reason(error)}"
            raise (NotAllowed if status in _MAY_NOT else kind)(message, status) from None


def _condition(e_tag: str | None, version: str | None) -> PutMode:
    condition: Any = {"e_tag": e_tag, "version": version}
    return {name: value for name, value in condition.items() if value is not None}  # type: ignore[return-value]


def _reason(error: Exception) -> str:
    """Say what happened, and the fix, in words that hold no secret."""
    text = str(error)
    fix = next((fix for pattern, fix in _FIXES if re.search(pattern, text)), "try again later")
    status, code = _STATUS.search(text), _CODE.search(text)
    said = [found[1].strip() for found in (status, code) if found]
    return f"{' '.join(said)}: {fix}" if said else fix
