"""What the operator sets, checked. Flags and `SIDECAR_…` variables arrive here alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
)

from sidecar.errors import UsageError
from sidecar.redis.keys import Keys, check_control, check_name
from sidecar.redis.retention import KINDS, Policy, parse_policy
from sidecar.wire.defaults import DATA_DIR, NOTIFY_STREAM, STREAM
from sidecar.wire.keeping import SHORTEST_GRACE_S, source_rules, unattended
from sidecar.wire.keyfiles import private_key
from sidecar.wire.scope import check_id_pattern
from sidecar.wire.signing import Signer
from sidecar.wire.trust import Trust
from sidecar.wire.units import address_of, artifact_size, seconds, window
from sidecar.wire.urls import redact
from sidecar.worker.logs import Format, Level
from sidecar.worker.width import AUTO, Threads, store_threads

_METAVAR: Final = "metavar"


def _checked_address(text: str) -> str:
    """Return the text. Raises `ValueError` as `address_of`."""
    address_of(text)
    return text


def _kept(text: str) -> str:
    """Return the text. Raises `ValueError` as `unattended`."""
    unattended(text)
    return text


def _kept_at_source(text: str) -> str:
    """Return the text. Raises `ValueError` as `source_rules`."""
    source_rules([text])
    return text


def _signing_key(path: str | Path) -> Path:
    """Return where the key is. Raises `ValueError` where it cannot be signed with.

    The name is not repeated: it may be a secret that was typed in its place.
    """
    try:
        private_key(Path(path))
    except (UsageError, ValueError) as error:
        raise ValueError(str(error).replace(str(Path(path)), "the file")) from None
    return Path(path)


def _trust(path: str | Path) -> Path:
    """Return where the keys are that are trusted. Raises `ValueError` as `_signing_key`."""
    try:
        Trust(path)
    except (UsageError, ValueError) as error:
        raise ValueError(str(error).replace(str(Path(path)), "the directory")) from None
    return Path(path)


Seconds = Annotated[float, BeforeValidator(seconds)]
Size = Annotated[int, BeforeValidator(artifact_size)]
Window = Annotated[float, BeforeValidator(window)]
Trimming = Annotated[Policy, BeforeValidator(parse_policy)]
StoreThreads = Annotated[Threads, BeforeValidator(store_threads)]
Address = Annotated[str, AfterValidator(_checked_address)]
IdPattern = Annotated[str, AfterValidator(check_id_pattern)]
Keep = Annotated[str, AfterValidator(_kept)]
SignKey = Annotated[Path, BeforeValidator(_signing_key)]
TrustedKeys = Annotated[Path, BeforeValidator(_trust)]
SourceKeep = Annotated[str, AfterValidator(_kept_at_source)]
StreamName = Annotated[str, AfterValidator(check_name)]
ControlName = Annotated[str, AfterValidator(check_control)]


def _option(
    default: Any,  # noqa: ANN401 -- of the field's type, or a text that means one
    help_: str,
    name: str | None = None,
    metavar: str | None = None,
    **checks: Any,  # noqa: ANN401 -- as Field
) -> Any:  # noqa: ANN401 -- as Field
    """Declare an option of `sidecar run`: its default as it is written, its help, its checks.

    `name` is what flag and variable are called after, where that is not the field's name.
    """
    about: Any = {_METAVAR: metavar}
    return Field(
        default, alias=name, validate_default=True, description=help_, json_schema_extra=about,
        **checks,
    )  # fmt: skip


class Options(BaseModel):
    """The settings that a relay reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    lease_s: Seconds = _option(
        "5", "How long a worker that went silent keeps its stream.", "lease", "SECONDS",
        ge=0.2, le=3600,
    )  # fmt: skip
    retry_budget_s: Seconds = _option(
        "60",
        "How long a missing or mismatched artifact is tried again; outages and halts do not count.",
        "retry_budget", "SECONDS", ge=0,
    )  # fmt: skip
    max_consecutive_dead: int = _option(
        100,
        "Pause a tenant, or halt the stream, after so many dead letters in a row; 0 is never.",
        ge=0,
        le=10**9,
    )
    store_threads: StoreThreads = _option(
        AUTO,
        "Artifacts carried at the same time, for each control stream; of one tenant not all. auto:"
        " as many as make it faster.",
        metavar="N|auto",
    )
    drain: bool = _option(False, "Finish what is there, then exit.")  # noqa: FBT003 -- the default


class Settings(Options):
    """What `sidecar run` is told, each option in one place: flag, default, unit, check and help.

    Defaults are public: docs/contract.md, "Command line". What leads to servers and stores other
    commands are told, too: their flags are in `sidecar.cli.servers`.
    """

    data_dir: Path = DATA_DIR
    redis: InstanceOf[str] | None = None
    """URL of the server with the control streams; None is the embedded one."""
    notify_redis: InstanceOf[str] | None = None
    streams: tuple[ControlName, ...] = Field((STREAM,), alias="stream", min_length=1)
    notify_stream: StreamName = NOTIFY_STREAM
    dead_stream: StreamName | None = None
    source_store: str | None = None
    fleet_store: str | None = None

    http: Address | None = _option(
        None, "Serve /livez, /readyz and /metrics there. Default: not at all.", metavar="HOST:PORT"
    )
    http_status_page: bool = _option(
        False,  # noqa: FBT003 -- the default
        "Serve a status page at / there, too. It changes nothing; who reaches the port sees names"
        " of streams, tenants and events.",
    )
    traces: bool = _option(
        False,  # noqa: FBT003 -- the default
        "Send the spans of each event whose producer sampled it, by OTLP. The OTEL_… variables say"
        " where to. Needs the extra otel.",
    )
    allow_type: tuple[str, ...] = _option(
        (), "Let this event type through, too. Repeatable.", metavar="TYPE"
    )
    tenant_scope: tuple[str, ...] = _option(
        (),
        "Which refs a tenant may name: 'stacks/{tenant}/*'. Repeatable. Default: any.",
        metavar="PATTERN",
    )
    event_id_scope: tuple[IdPattern, ...] = _option(
        (),
        "Which event_ids a tenant may use: '{tenant}/*'. Repeatable. Default: any.",
        metavar="PATTERN",
    )
    max_artifact_bytes: Size = _option(
        "1GiB",
        "Larger artifacts end as dead letters.",
        "max_artifact_size",
        "SIZE",
    )
    dedup_window_s: Window = _option(
        "7d", "How long an event_id is remembered.", "dedup_window", "TIME"
    )
    trim_control: Trimming = _option(
        "age=7d",
        "What of the control streams to trim once it is finished: age=7d, length=1000000, several"
        " with commas, or never; full=1d is the age while Redis is over 85 % of its maxmemory.",
        metavar="LIMITS",
    )
    trim_notifications: Trimming = _option(
        "age=30d",
        "What of the notifications to trim once every registered reader has passed it; what is"
        " younger than --dedup-window stays.",
        metavar="LIMITS",
    )
    trim_dead: Trimming = _option("age=90d", "What of the dead letters to trim.", metavar="LIMITS")
    wait_replicas: int = _option(
        0,
        "Acknowledge an entry only once N replicas have its notification (WAIT).",
        metavar="N", ge=0, le=100,
    )  # fmt: skip
    sign_key: SignKey | None = _option(
        None,
        "Sign each notification with this Ed25519 key: PEM, the worker's alone (`sidecar sign-key"
        " new FILE`). Needs the extra signing.",
        metavar="FILE",
    )
    trust: TrustedKeys | None = _option(
        None,
        "Vouch in the archive for what any public key in this directory signed: so a new --sign-key"
        " vouches for the old one's. Default: for what its own key signed.",
        metavar="DIR",
    )
    log_level: Level = _option("info", "debug, info, warning or error.")
    log_format: Format | None = _option(
        None, "json or console. Default: console at a terminal, else json."
    )
    allow_unpinned: bool = _option(
        False,  # noqa: FBT003 -- the default
        "Accept a fleet store that keeps no versions: a notification cannot be resolved once its"
        " ref is rewritten.",
    )
    second_deployment: bool = _option(
        False,  # noqa: FBT003 -- the default
        "Publish everything again to a notification stream whose name nobody has used, though it"
        " looks like a slip for one that there is.",
    )
    adopt_fleet_store: bool = _option(
        False,  # noqa: FBT003 -- the default
        "The fleet has moved to this store: note it in place of the one that the notifications"
        " have named. Kept on record.",
    )
    archive: bool = _option(
        False,  # noqa: FBT003 -- the default
        "Archive the streams into the fleet's store, and trim nothing that is not there.",
    )
    archive_every_s: Seconds = _option(
        "1h", "Archive at least so often, however little there is.", "archive_every", "TIME",
        ge=1,
    )  # fmt: skip
    archive_keep_s: Seconds | None = _option(
        None,
        "Remove what the archive has had for longer; the state of the fleet stays known from then"
        " on. Default: keep all.",
        "archive_keep", "TIME",
    )  # fmt: skip
    keep: tuple[Keep, ...] = _option(
        (),
        "Remove refs from the fleet's store, slowly, as `store gc --keep` does; none that an event"
        " in Redis names, nor the newest. Repeatable. Default: no ref goes.",
        metavar="[PATTERN:]last=N,age=AGE",
    )
    source_keep: tuple[SourceKeep, ...] = _option(
        (),
        "The same in the producer's store; published+7d: what the fleet's store has had for a week"
        " and no unfinished event names; published+7d,orphans=30d: also what was put a month ago,"
        " never announced and overtaken since. Default: no ref goes.",
        metavar="RULE",
    )
    keep_grace_s: Seconds = _option(
        "24h",
        "By these rules nothing goes that was in use within that time: longer than any way from a"
        " Put to its event.",
        "keep_grace", "DURATION", ge=SHORTEST_GRACE_S,
    )  # fmt: skip

    @property
    def source_url(self) -> str:
        """The producer's store; under the data directory unless given."""
        return self.source_store or file_url(self.data_dir / "source")

    @property
    def policies(self) -> dict[str, Policy]:
        """What to trim, by the kinds of streams that `Retention` knows."""
        limits = (self.trim_control, self.trim_notifications, self.trim_dead)
        return dict(zip(KINDS, limits, strict=True))

    @property
    def fleet_url(self) -> str:
        """The fleet's store; under the data directory unless given."""
        return self.fleet_store or file_url(self.data_dir / "fleet")


AUDITED_S: Final = 86_400.0
"""An audit reads the archive from so long before what it judges, and the deduplication window."""
_URLS: Final = ("redis", "notify_redis", "source_store", "fleet_store")
LONGEST_SHOWN: Final = 256


def shown(name: str, value: object) -> object:
    """Return a value of a setting as it may be shown: a URL without its login, text cut short."""
    if isinstance(value, tuple | list):
        return _cut(", ".join(str(shown(name, one)) for one in value))
    if isinstance(value, str) and (name in _URLS or "://" in value):
        return _cut(redact(value))
    return value if isinstance(value, bool | int | float | None) else _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"


def recorded(settings: Settings) -> dict[str, object]:
    """Return all settings for a record that anybody may read, by the names of their options.

    Without secrets, and of a bounded size.
    """
    return {
        (field.alias or name): shown(name, getattr(settings, name))
        for name, field in Settings.model_fields.items()
    }


class Option(NamedTuple):
    """An option of `sidecar run`, for the command line."""

    name: str
    default: Any
    """As it is written."""
    help: str
    metavar: Any


def options() -> list[Option]:
    """Return the options that `sidecar run` alone has."""
    return [
        Option(field.alias or name, field.default, field.description, extra.get(_METAVAR))
        for name, field in Settings.model_fields.items()
        if field.description and isinstance(extra := field.json_schema_extra, dict)
    ]


def build(**options: object) -> Settings:
    """Return the settings; options that are None or empty keep their defaults.

    Raises `UsageError` naming the flag and what it wants.
    """
    given = {name: value for name, value in options.items() if value not in (None, (), [])}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from None
    if settings.http_status_page and not settings.http:
        raise UsageError("--http-status-page: it needs --http HOST:PORT, which serves it")
    _check_names(settings)
    _check_stores(settings)
    _check_horizon(settings)
    _check_rules(settings)
    _check_trust(settings)
    return settings


def _refusal(error: ValidationError) -> UsageError:
    """Return what a person is to read, of the first option that is wrong."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    field = Settings.model_fields.get(name)
    flag = "--" + ((field and field.alias) or name).replace("_", "-")
    return UsageError(f"{flag}: {first['msg'].removeprefix('Value error, ')}")


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


def _check_stores(settings: Settings) -> None:
    """Refuse to make stores under the data directory beside a server of the operator's.

    Readers of that server would look for them elsewhere. Raises `UsageError`.
    """
    notify = settings.notify_redis or settings.redis
    wanted = (
        ("--source-store", settings.redis, settings.source_store),
        ("--fleet-store", notify, settings.fleet_store),
    )
    missing = [option for option, server, url in wanted if server and not url]
    if missing:
        raise UsageError(
            f"give {' and '.join(missing)}: only beside the embedded server are there stores under"
            f" --data-dir; with a server of your own say where they are, for example {missing[-1]}"
            " file:///var/lib/fleet"
        )


def _check_horizon(settings: Settings) -> None:
    """Refuse to keep the archive for less than what Redis has. Raises `UsageError`."""
    keep_s = settings.archive_keep_s
    if keep_s is not None and not settings.archive:
        raise UsageError("--archive-keep: it needs --archive")
    ages = {f"--trim-{kind}": policy.age_s or 0.0 for kind, policy in settings.policies.items()}
    ages["--dedup-window"] = settings.dedup_window_s
    longest_s, option = max((age_s, option) for option, age_s in ages.items())
    if keep_s is not None and keep_s < longest_s + AUDITED_S:
        raise UsageError(
            f"--archive-keep: it is too short: {option} keeps {longest_s / 86_400:g}d in Redis, and"
            f" audits read a day before that; keep {longest_s / 86_400 + 1:g}d at least"
        )


def _check_rules(settings: Settings) -> None:
    """Refuse rules that cannot be followed together. Raises `UsageError`."""
    try:
        source_rules(settings.source_keep)
    except ValueError as error:
        raise UsageError(f"--source-keep: {error}") from None


def _check_trust(settings: Settings) -> None:
    """Refuse keys to trust beside a key that is none of them. Raises `UsageError`."""
    if settings.trust is None:
        return
    if settings.sign_key is None:
        raise UsageError("--trust: it needs --sign-key FILE: who has no key vouches for nothing")
    try:
        Trust(settings.trust).check_own(Signer(settings.sign_key).key_id)
    except UsageError as error:
        raise UsageError(f"--trust: {error}") from None


def file_url(directory: Path) -> str:
    """Return the URL of a file store at `directory`."""
    return directory.absolute().as_uri()
