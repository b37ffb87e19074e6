"""What the operator sets, checked. Flags and `SIDECAR_…` variables arrive here alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sidecar.errors import UsageError
from sidecar.logs import LEVELS
from sidecar.redis.keys import Keys
from sidecar.redis.retention import Policy, parse_policy

_UNITS_S: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_BYTES: Final = {
    "": 1, "B": 1, "K": 1 << 10, "KIB": 1 << 10, "M": 1 << 20, "MIB": 1 << 20,
    "G": 1 << 30, "GIB": 1 << 30, "T": 1 << 40, "TIB": 1 << 40, "KB": 10**3, "MB": 10**6,
    "GB": 10**9, "TB": 10**12,
}  # fmt: skip


def seconds(value: str | float) -> float:
    """Read a duration: a number of seconds, or one with a unit (500ms, 90s, 5m, 12h, 7d)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value))
    if not match or match[2] not in _UNITS_S:
        raise ValueError(f"{value!r} is no duration; write seconds, or 500ms, 90s, 5m, 12h, 7d")
    return float(match[1]) * _UNITS_S[match[2]]


def size_bytes(value: str | int) -> int:
    """Read a size: a number of bytes, or one with a unit (512KiB, 64M, 1GiB, 10GB)."""
    match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", str(value))
    if not match or match[2].upper() not in _UNITS_BYTES:
        raise ValueError(f"{value!r} is no size; write bytes, or 512KiB, 64M, 1GiB")
    return int(match[1]) * _UNITS_BYTES[match[2].upper()]


Seconds = Annotated[float, BeforeValidator(seconds)]
Trimming = Annotated[Policy, BeforeValidator(parse_policy)]
StreamName = Annotated[str, Field(min_length=1, max_length=512)]


class Settings(BaseModel):
    """What `sidecar run` is told. Defaults are those of section 6 of the contract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Path(".sidecar")
    redis: str | None = None
    """URL of the server with the control streams; None is the embedded one."""
    notify_redis: str | None = None
    streams: Annotated[tuple[StreamName, ...], Field(min_length=1)] = ("control:events",)
    notify_stream: StreamName = "control:notifications"
    dead_stream: StreamName | None = None
    source_store: str | None = None
    fleet_store: str | None = None
    allow_unpinned: bool = False
    """Whether a fleet store without pinned-get is accepted."""
    http: str | None = None
    lease_s: Annotated[Seconds, Field(ge=0.2, le=3600)] = 5.0
    retry_budget_s: Annotated[Seconds, Field(ge=0)] = 60.0
    allow_type: tuple[str, ...] = ()
    tenant_scope: tuple[str, ...] = ()
    max_artifact_bytes: Annotated[int, BeforeValidator(size_bytes), Field(gt=0)] = 1 << 30
    max_consecutive_dead: Annotated[int, Field(ge=0)] = 100
    dedup_window_s: Annotated[Seconds, Field(ge=1, le=366 * 86400)] = 7 * 86400.0
    trim_control: Trimming = Policy(age_s=7 * 86400)
    trim_notifications: Trimming = Policy(age_s=30 * 86400)
    trim_dead: Trimming = Policy(age_s=90 * 86400)
    archive: bool = False
    """Whether the streams are archived into the fleet's store before they are trimmed."""
    archive_every_s: Annotated[Seconds, Field(ge=1)] = 3600.0
    """After so long a segment is closed, however little is in it."""
    wait_replicas: Annotated[int, Field(ge=0, le=100)] = 0
    """How many replicas must have a notification before its entry is acknowledged."""
    store_threads: Annotated[int, Field(ge=1, le=256)] = 8
    log_level: Annotated[str, Field(pattern=f"^({'|'.join(LEVELS)})$")] = "info"
    drain: bool = False

    @property
    def source_url(self) -> str:
        """The producer's store; under the data directory unless given."""
        return self.source_store or file_url(self.data_dir / "source")

    @property
    def fleet_url(self) -> str:
        """The fleet's store; under the data directory unless given."""
        return self.fleet_store or file_url(self.data_dir / "fleet")


_FLAGS: Final = {
    "streams": "--stream",
    "lease_s": "--lease",
    "retry_budget_s": "--retry-budget",
    "max_artifact_bytes": "--max-artifact-size",
    "dedup_window_s": "--dedup-window",
    "archive_every_s": "--archive-every",
}


def build(**options: object) -> Settings:
    """Return the settings; options that are None or empty keep their defaults.

    Raises `UsageError` naming the flag and what it wants.
    """
    given = {name: value for name, value in options.items() if value not in (None, (), [])}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        flag = _FLAGS.get(name, "--" + name.replace("_", "-"))
        raise UsageError(f"{flag}: {first['msg'].removeprefix('Value error, ')}") from error
    _check_names(settings)
    return settings


def _check_names(settings: Settings) -> None:
    """Refuse streams that would run into each other. Raises `UsageError`."""
    if len(set(settings.streams)) != len(settings.streams):
        raise UsageError("--stream: one stream is named twice")
    keys = Keys.of(settings.streams[0], settings.notify_stream, settings.dead_stream)
    if {keys.notifications, keys.dead} & set(settings.streams):
        raise UsageError(
            "--stream: a control stream cannot be the one for notifications or letters"
        )
    if keys.notifications == keys.dead:
        raise UsageError("--notify-stream: it cannot be the dead-letter stream as well")


def file_url(directory: Path) -> str:
    """Return the URL of a file store at `directory`."""
    return directory.absolute().as_uri()
