"""Every metric: name, kind, labels, what it means, what to do. `docs/metrics.md` is made from this.

Names keep to Prometheus's conventions: a prefix, base units, `_total` for what only rises. Where
OpenTelemetry's conventions for messaging have a metric of the same meaning, `otel` is its name.

Labels are bounded: streams and works are the operator's and ours, readers are cut off at a number,
and no label has a tenant, a ref or an event_id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

STATES: Final = ("active", "standby", "halted", "waiting", "recovering", "stopped")
OUTCOMES: Final = ("published", "duplicate", "dead", "dead already")
STAGES: Final = ("wait", "store", "publish")
ERRORS: Final = ("Unavailable", "NotFound", "Corrupt", "Mismatch", "other")
BLOCKERS: Final = ("group", "reader", "archive", "unfinished", "window", "ids")
SERVERS: Final = ("control", "notify")
STORES: Final = ("source", "fleet")
WORKS: Final = (
    "archiving", "checkpoints", "expiring", "groups", "leaving", "membership", "metrics", "probe",
    "pruning", "readers", "retention", "room", "scripts", "summary", "trimming",
)  # fmt: skip
"""Work beside relaying, by the name under which it is supervised."""
GATHERINGS: Final = (
    "archive", "growth", "logs", "parts", "readers", "servers", "stores", "streams",
)  # fmt: skip
"""What is gathered together, and fails together."""
BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200,
)  # fmt: skip


class Kind(Enum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Meter:
    """One metric."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    action: str
    """What an operator does about it."""
    otel: str = ""
    """What OpenTelemetry calls it."""


def _counter(name: str, labels: str, meaning: str, action: str, otel: str = "") -> Meter:
    return Meter(name, Kind.COUNTER, tuple(labels.split()), meaning, action, otel)


def _gauge(name: str, labels: str, meaning: str, action: str) -> Meter:
    return Meter(name, Kind.GAUGE, tuple(labels.split()), meaning, action)


def _histogram(name: str, labels: str, meaning: str, action: str, otel: str = "") -> Meter:
    return Meter(name, Kind.HISTOGRAM, tuple(labels.split()), meaning, action, otel)


# --- what the relay counts -----------------------------------------------------------------------

READ: Final = _counter(
    "sidecar_entries_read_total", "stream", "Control entries read.",
    "Compare with `sidecar_entries_finished_total`: what is read and not finished is held back.",
    "messaging.client.consumed.messages",
)  # fmt: skip
FINISHED: Final = _counter(
    "sidecar_entries_finished_total", "stream outcome",
    "Control entries acknowledged, by what became of them: published, duplicate, dead, or dead"
    " already (an earlier tenure wrote the dead letter).",
    "Many duplicates: a producer sends again without need, or with an old cursor.",
    "messaging.client.sent.messages (outcome published)",
)  # fmt: skip
DEAD: Final = _counter(
    "sidecar_dead_letters_total", "stream reason", "Dead letters written, by reason.",
    "`sidecar dead ls` has each with its cause and its fix.",
)  # fmt: skip
CONFLICTS: Final = _counter(
    "sidecar_tenant_conflicts_total", "stream",
    "Events whose event_id another tenant's event has.",
    "Give each tenant ids of its own: `--event-id-scope`.",
)  # fmt: skip
RETRIES: Final = _counter(
    "sidecar_retries_total", "stream error_type",
    "Failed attempts to bring an artifact from store to store, by error.",
    "`Unavailable` and `other` are outages and wait; the others are dead letters after"
    " `--retry-budget`. `sidecar status` says whose events wait, and why.",
)  # fmt: skip
DELIVERY: Final = _histogram(
    "sidecar_delivery_duration_seconds", "stream",
    "From the entry's append to its notification, by Redis's clock. Entries whose IDs are no times"
    " are left out.",
    "See which stage grew: `sidecar_stage_duration_seconds`.",
)  # fmt: skip
STAGE: Final = _histogram(
    "sidecar_stage_duration_seconds", "stream stage",
    "The same by stage. wait: from the append until the worker takes the entry up (its own clock)."
    " store: resolve, verify and Put of one artifact. publish: from sending a run to Redis's"
    " answer, for each of its events.",
    "wait: more workers or streams, or a slow stage behind it. store: look at the stores. publish:"
    " look at Redis (`SLOWLOG GET`, `--wait-replicas`).",
    "messaging.process.duration (stage store)",
)  # fmt: skip
LAST_PUBLISH: Final = _gauge(
    "sidecar_last_publish_timestamp_seconds", "stream",
    "When this worker last published, by Redis's clock; 0 is never since it started.",
    "Old while lag rises: see `sidecar_state`.",
)  # fmt: skip
STATE: Final = _gauge(
    "sidecar_state", "stream state",
    "1 for the state that the relay is in: active, standby, halted, waiting, recovering, stopped.",
    "`/readyz` and the log say why.",
)  # fmt: skip
OWNER: Final = _gauge(
    "sidecar_owner", "stream", "1 while this worker owns the control stream.",
    "The sum over all workers is 1. At 0 nobody serves it; see `sidecar status`.",
)  # fmt: skip
FULL: Final = _gauge(
    "sidecar_redis_full", "stream", "1 while the relay waits for a Redis that is full.",
    "Give Redis memory, or trim: `sidecar status` says how full it is.",
)  # fmt: skip
GIVEN_BACK: Final = _counter(
    "sidecar_leases_given_back_total", "stream",
    "Times that the lease was given back, as this worker could not serve.",
    "The log line before it says what this worker lacks.",
)  # fmt: skip
TAKEOVERS: Final = _counter(
    "sidecar_takeovers_total", "stream",
    "Times that this worker began to serve a stream for which it had stood by.",
    "Many: workers crash or stall. `sidecar status` has the last ones, and who served before.",
)  # fmt: skip
FORGOT: Final = _counter(
    "sidecar_redis_forgot_total", "stream part",
    "Times that Redis was found to have forgotten a part of what it had.",
    "A failover or a restart lost data: `sidecar audit`, then check persistence.",
)  # fmt: skip
WINDOW: Final = _gauge(
    "sidecar_window_entries", "stream", "Entries in the worker's memory.",
    "Full at about 1,000: the stores or Redis are the bottleneck.",
)  # fmt: skip
PAUSED: Final = _gauge(
    "sidecar_paused_tenants", "stream", "Tenants that are paused.",
    "`sidecar status` says which, why and by whom; `sidecar resume --tenant T` resumes one.",
)  # fmt: skip
HELD: Final = _gauge(
    "sidecar_held_tenants", "stream", "Tenants whose event is tried again.",
    "`sidecar status` has tenant, error, attempts and since when.",
)  # fmt: skip
HELD_LONGEST: Final = _gauge(
    "sidecar_held_longest_seconds", "stream",
    "How long the event has been known that has been held back the longest; 0 without any.",
    "As for `sidecar_held_tenants`.",
)  # fmt: skip

# --- the process and its work beside relaying ----------------------------------------------------

BACKGROUND_FAILURES: Final = _counter(
    "sidecar_background_failures_total", "work",
    "Failures of work beside relaying: trimming, archiving and the like.",
    "`/readyz` and the log say why.",
)  # fmt: skip
BACKGROUND_FAILING: Final = _gauge(
    "sidecar_background_failing", "work",
    "Steps of this work that fail now; 0 while it works.",
    "`/readyz` and the log say why. `room`: a stream takes no more entries.",
)  # fmt: skip
TRIM_BLOCKED: Final = _gauge(
    "sidecar_trim_blocked", "stream by",
    "1 while the policy would trim more of a stream than is allowed, by who needs it: a consumer"
    " group, a registered reader, the archive, unfinished entries, the deduplication window; or by"
    " `ids` that tell no age. 0 on workers that own nothing.",
    "`sidecar status` names the group and the readers (`NOT TRIMMED`), and such IDs (`NO TIMES`).",
)  # fmt: skip
RETIRED: Final = _counter(
    "sidecar_retired_refs_total", "store",
    "Refs that went from a store by `--keep` or `--source-keep`, of this worker.",
    "0 with rules: `sidecar store gc --keep … --dry-run` says what stays and why.",
)  # fmt: skip
RETIRED_BYTES: Final = _counter(
    "sidecar_retired_bytes_total", "store",
    "Bytes of these refs. What is over 64 KiB is on disk until it is collected, once a day.",
    "As for `sidecar_retired_refs_total`.",
)  # fmt: skip
LOG_DROPPED: Final = _counter(
    "sidecar_log_lines_dropped_total", "",
    "Log lines that could not be written, or not soon enough.",
    "Whatever reads the log is too slow, or gone.",
)  # fmt: skip
BUILD: Final = _gauge(
    "sidecar_build_info", "version python", "1; the labels say what runs.",
    "Different versions side by side: a rollout is not done.",
)  # fmt: skip
GATHERED: Final = _gauge(
    "sidecar_gathered_timestamp_seconds", "what",
    "When what is below was last gathered from there; 0 is never. What could not be gathered for a"
    " minute is absent.",
    "Redis or a disk does not answer: see `sidecar_state` and the log.",
)  # fmt: skip

# --- what is gathered from Redis and from disks, every few seconds -------------------------------

LAG_ENTRIES: Final = _gauge(
    "sidecar_lag_entries", "stream",
    "Entries that nobody has read. Absent while it is unknown: before a worker has read the stream,"
    " and where deletes keep Redis from telling.",
    "Rising: `sidecar_state`, then the slowest stage.",
)  # fmt: skip
UNREAD_AGE: Final = _gauge(
    "sidecar_unread_age_seconds", "stream",
    "Age of the oldest entry that nobody has read; 0 without any. Absent where IDs are no times.",
    "As for `sidecar_lag_entries`.",
)  # fmt: skip
PENDING: Final = _gauge(
    "sidecar_pending_entries", "stream", "Entries read and not acknowledged.",
    "More than a window of 1,000: events are held back. `sidecar status` has them.",
)  # fmt: skip
PENDING_AGE: Final = _gauge(
    "sidecar_pending_age_seconds", "stream",
    "Age of the oldest entry that is read and not acknowledged; 0 without any. Absent where IDs are"
    " no times.",
    "`sidecar status` says whose event waits, and why.",
)  # fmt: skip
STREAM_ENTRIES: Final = _gauge(
    "sidecar_stream_entries", "stream kind",
    "Entries in each stream; of kind dead: how many dead letters there are now.",
    "See `sidecar_trim_blocked` when it only grows.",
)  # fmt: skip
NO_ROOM: Final = _gauge(
    "sidecar_stream_without_room", "stream",
    "1 when a stream was given so high an ID that no entry can follow.",
    "See operating.md, A stream that takes no more entries.",
)  # fmt: skip
READERS: Final = _gauge(
    "sidecar_readers", "state", "Registered readers: good, expired, damaged (not believed).",
    "`sidecar status` names them.",
)  # fmt: skip
READER_LAG_ENTRIES: Final = _gauge(
    "sidecar_reader_lag_entries", "reader",
    "About how many notifications a reader has not passed: exact at 0, else told by how the stream"
    " grew. Of the readers that are furthest behind. Absent while unknown, and before Redis 7.",
    "See what that controller does; until it continues or expires, nothing is trimmed.",
)  # fmt: skip
READER_LAG: Final = _gauge(
    "sidecar_reader_lag_seconds", "reader",
    "Age of the oldest notification that a reader has not passed; 0 without any.",
    "As for `sidecar_reader_lag_entries`.",
)  # fmt: skip
ARCHIVE_LAG: Final = _gauge(
    "sidecar_archive_lag_seconds", "stream",
    "With `--archive`: age of the oldest entry that is not archived; 0 without any.",
    "More than a few of `sidecar_archive_interval_seconds`: see the log for `archiving`.",
)  # fmt: skip
ARCHIVE_INTERVAL: Final = _gauge(
    "sidecar_archive_interval_seconds", "", "`--archive-every`; 0 without `--archive`.",
    "What `sidecar_archive_lag_seconds` is measured by.",
)  # fmt: skip
MEMORY_USED: Final = _gauge(
    "sidecar_redis_memory_used_bytes", "server",
    "Memory of the Redis with the control streams and of the one with the notifications, as it"
    " counts against the limit.",
    "Near the limit: trim sooner, or give it memory, before it refuses what is new.",
)  # fmt: skip
MEMORY_MAX: Final = _gauge(
    "sidecar_redis_memory_max_bytes", "server", "`maxmemory`; 0 is no limit.",
    "Set one below what the machine has, with `noeviction`.",
)  # fmt: skip
MEMORY_PART: Final = _gauge(
    "sidecar_redis_memory_part_bytes", "part",
    "About how much memory a part of the deployment takes in Redis: `control`, `notifications` and"
    " `dead` (streams), `index` (deduplication; of few events at most so much), `own` (other keys)."
    " Absent where `MEMORY USAGE` is denied.",
    "Which of `--trim-control`, `--trim-notifications`, `--trim-dead` and `--dedup-window` helps.",
)  # fmt: skip
CLOCK: Final = _gauge(
    "sidecar_redis_clock_skew_seconds", "server",
    "Redis's clock less this worker's.",
    "Let NTP run on both. Positions and the deduplication window are Redis's clock.",
)  # fmt: skip
STORE_FREE: Final = _gauge(
    "sidecar_store_free_bytes", "store",
    "Bytes free for this user where a file store is. Absent for other stores.",
    "Before it is full: `sidecar store gc`, retention, or a larger disk.",
)  # fmt: skip
STORE_SIZE: Final = _gauge(
    "sidecar_store_size_bytes", "store", "Size of that file system.", "What the free is part of."
)  # fmt: skip
INODES_FREE: Final = _gauge(
    "sidecar_store_free_inodes", "store", "Inodes free there.",
    "As for `sidecar_store_free_bytes`. Some file systems have no limit, and are absent.",
)  # fmt: skip
INODES: Final = _gauge(
    "sidecar_store_inodes", "store", "Inodes of that file system.", "What the free is part of."
)  # fmt: skip
STORE_LOGS: Final = _gauge(
    "sidecar_store_logs", "",
    "Logs (notification streams of some Redis) that publish into the fleet store. Absent for a"
    " store that cannot list.",
    "Two are two fleets in one store: meant, or a slip in `--fleet-store`?"
    " `sidecar store gc --dry-run` names them.",
)  # fmt: skip
ADDED_REFS: Final = _gauge(
    "sidecar_store_added_refs_per_day", "store",
    "Refs that a day adds to a store for which this worker follows no keep rule (`--keep`,"
    " `--source-keep`): they stay for ever, unless `sidecar store gc` removes them by rules."
    " About, as the newest notifications tell. Absent where a rule is followed, or nothing tells.",
    "Choose rules before the disk is full: docs/operating.md, Retention.",
)  # fmt: skip
ADDED_BYTES: Final = _gauge(
    "sidecar_store_added_bytes_per_day", "store",
    "The same in bytes. Absent, too, where the fleet's store does not tell sizes.",
    "`sidecar_store_free_bytes` divided by it is how many days are left.",
)  # fmt: skip

# --- the client library's ------------------------------------------------------------------------

PROCESS: Final = (
    _gauge("process_virtual_memory_bytes", "", "Virtual memory.", "Nothing."),
    _gauge("process_resident_memory_bytes", "", "Memory in use.",
           "It grows neither with the backlog nor with artifacts; report it if it does."),
    _gauge("process_start_time_seconds", "", "When the worker started.",
           "Changes often: it restarts again and again."),
    _counter("process_cpu_seconds_total", "", "Processor time.",
             "Near one core for each relay: that is what limits it."),
    _gauge("process_open_fds", "", "Open file descriptors.", "Compare with the limit."),
    _gauge("process_max_fds", "", "Their limit.", "Raise it (`LimitNOFILE=`, `ulimit -n`)."),
)  # fmt: skip

COUNTED: Final = (
    READ, FINISHED, DEAD, CONFLICTS, RETRIES, DELIVERY, STAGE, LAST_PUBLISH, STATE, OWNER, FULL,
    GIVEN_BACK, TAKEOVERS, FORGOT, WINDOW, PAUSED, HELD, HELD_LONGEST, BACKGROUND_FAILURES,
    BACKGROUND_FAILING, TRIM_BLOCKED, RETIRED, RETIRED_BYTES, LOG_DROPPED, BUILD, GATHERED,
)  # fmt: skip
FROM_OUTSIDE: Final = (
    LAG_ENTRIES, UNREAD_AGE, PENDING, PENDING_AGE, STREAM_ENTRIES, NO_ROOM, READERS,
    READER_LAG_ENTRIES, READER_LAG, ARCHIVE_LAG, ARCHIVE_INTERVAL, MEMORY_USED, MEMORY_MAX,
    MEMORY_PART, CLOCK, STORE_FREE, STORE_SIZE, INODES_FREE, INODES, STORE_LOGS, ADDED_REFS,
    ADDED_BYTES,
)  # fmt: skip
ALL: Final = (*COUNTED, *FROM_OUTSIDE, *PROCESS)
