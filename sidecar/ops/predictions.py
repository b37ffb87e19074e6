"""Whether a dead letter would end as one again: the pipeline's own code tells, on today's stores.

It reads the artifact, verifies it and puts nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from sidecar.errors import Unreachable
from sidecar.redis.client import Client
from sidecar.redis.errors import NotPermitted
from sidecar.redis.keys import Keys
from sidecar.redis.letters import DeadLetter
from sidecar.redis.publisher import remembered
from sidecar.wire.erasures import erasures_of
from sidecar.wire.event import Event, Reason, Rejected
from sidecar.wire.identity import identity_digest
from sidecar.worker.pipeline import Admitted, Pipeline, Rules
from sidecar.worker.policy import Bury, Mismatch, decide
from store import Store, StoreError, VersionedStore
from store import open as open_backend

NO_SOURCE: Final = "no --source-store was named: artifacts were not looked for"
STORE_AWAY: Final = "a store cannot be reached: artifacts were not looked for"
NO_FLEET: Final = "; the fleet may have it: name --fleet-store"
LACKING: Final = (Reason.ARTIFACT_MISSING, Reason.CHECKSUM_MISMATCH)
NO_INDEX: Final = (
    "this Redis user may not read the deduplication index: event_ids were not looked up"
)


class Stores(Protocol):
    """Leads to the stores."""

    def source(self) -> Store | None:
        """Open the producer's, if one is named."""

    def fleet_if_any(self) -> VersionedStore | None:
        """Open the fleet's, if one is named."""


class Prediction(NamedTuple):
    """What can be said of a letter now."""

    ends: str = ""
    """As what it would end again; empty when nothing is known against it."""
    unseen: str = ""
    """What nobody could look at; empty when all was looked at. That is no verdict."""


class Predictions:
    """Judges letters. `of` raises `RedisError`."""

    def __init__(
        self, client: Client, keys: Keys, source: Store | None, rules: Rules, *,
        fleet: Store | None = None, without: str = NO_SOURCE,
    ) -> None:  # fmt: skip
        """Without `source`, for the cause `without`, nothing is said of artifacts.

        Nor is it once a store was away: each letter would wait for it anew. What the source lacks
        is looked for in `fleet`, as a worker does. `rules` are those of the workers.
        """
        self._without = without
        self._fleet = fleet
        self._client = client
        self._keys = keys
        self._source = source
        judged = source or open_backend("memory")
        self._pipeline = Pipeline(judged, fleet or judged, rules, only_looks=True)

    @classmethod
    def looking_into(cls, stores: Stores, client: Client, keys: Keys, rules: Rules) -> Predictions:
        """Return what looks for artifacts in the stores, if they can be opened."""
        try:
            return cls(client, keys, stores.source(), rules, fleet=stores.fleet_if_any())
        except Unreachable:
            return cls(client, keys, None, rules, without=STORE_AWAY)

    def of(self, letter: DeadLetter) -> Prediction:
        """Say what would become of it now."""
        try:
            admitted = self._pipeline.admit(letter.to_entry(), letter.origin)
        except Rejected as error:
            return Prediction(str(error))
        conflict = self._conflict(admitted)
        if conflict.ends:
            return conflict
        artifact = self._artifact(admitted)
        unseen = "; ".join(filter(None, (conflict.unseen, artifact.unseen)))
        return Prediction(artifact.ends, unseen)

    def _conflict(self, admitted: Admitted) -> Prediction:
        event_id = admitted.body["event_id"]
        try:
            (seen,) = remembered(self._client, self._keys, [identity_digest(event_id)])
        except NotPermitted:
            return Prediction(unseen=NO_INDEX)
        if seen is None or seen.content_digest == admitted.content_digest:
            return Prediction()
        return Prediction(
            f"{Reason.ID_CONFLICT}: {event_id} was published with other content, as control_version"
            f" {seen.control_version}"
        )

    def _artifact(self, admitted: Admitted) -> Prediction:
        if admitted.event is None:
            return Prediction()
        if self._source is None:
            return Prediction(unseen=self._without)
        try:
            self._pipeline.carry(admitted, (0, 0))
        except (StoreError, Rejected, Mismatch) as error:
            verdict = decide(error, attempts=1, spent_s=0, budget_s=0)
            if isinstance(verdict, Bury):
                return Prediction(f"{verdict.reason}: {self._detail(verdict, admitted.event)}")
            self._source, self._without = None, STORE_AWAY  # who is away is not asked again
            return Prediction(unseen=STORE_AWAY)
        return Prediction()

    def _detail(self, verdict: Bury, event: Event) -> str:
        """Say what is wrong; of what was erased, that, and by whom."""
        detail = verdict.detail.partition(" (tried ")[0]
        if verdict.reason not in LACKING:
            return detail
        if self._fleet is None:
            return f"{detail}{NO_FLEET}"
        erasure = erasures_of(self._fleet).find(event.artifact_ref, event.checksum)
        return f"the artifact was {erasure}" if erasure else detail
