"""Whether a dead letter would end as one again: the pipeline's own code tells, on today's source.

It is asked to bring the artifact from the source into the source itself, which reads it, verifies
it and puts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sidecar.errors import Unreachable
from sidecar.redis.client import Client
from sidecar.redis.errors import NotPermitted
from sidecar.redis.keys import Keys
from sidecar.redis.letters import DeadLetter
from sidecar.redis.publisher import remembered
from sidecar.wire.event import Reason, Rejected
from sidecar.wire.identity import identity_digest
from sidecar.worker.pipeline import Admitted, Pipeline, Rules
from sidecar.worker.policy import Bury, Mismatch, decide
from store import Store, StoreError
from store import open as open_backend

NO_SOURCE: Final = "no --source-store was named: artifacts were not looked for"
SOURCE_AWAY: Final = "the source store cannot be reached: artifacts were not looked for"
NO_INDEX: Final = (
    "this Redis user may not read the deduplication index: event_ids were not looked up"
)


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
        without: str = NO_SOURCE,
    ) -> None:  # fmt: skip
        """Without `source`, for the cause `without`, nothing is said of artifacts.

        Nor is it once the source was away: each letter would wait for it anew.
        `rules` are those of the workers.
        """
        self._without = without
        self._client = client
        self._keys = keys
        self._source = source
        judged = source or open_backend("memory")
        self._pipeline = Pipeline(judged, judged, rules)

    @classmethod
    def looking_into(
        cls, source: Callable[[], Store | None], client: Client, keys: Keys, rules: Rules
    ) -> Predictions:
        """Return what looks for artifacts in the store that `source` opens, if that can be."""
        try:
            return cls(client, keys, source(), rules)
        except Unreachable:
            return cls(client, keys, None, rules, without=SOURCE_AWAY)

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
        event_id = admitted.event.event_id
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
        if not admitted.event.artifact_ref:
            return Prediction()
        if self._source is None:
            return Prediction(unseen=self._without)
        try:
            self._pipeline.carry(admitted, (0, 0))
        except (StoreError, Rejected, Mismatch) as error:
            verdict = decide(error, attempts=1, spent_s=0, budget_s=0)
            if isinstance(verdict, Bury):
                return Prediction(f"{verdict.reason}: {verdict.detail.partition(' (tried ')[0]}")
            self._source, self._without = None, SOURCE_AWAY  # who is away is not asked again
            return Prediction(unseen=SOURCE_AWAY)
        return Prediction()
