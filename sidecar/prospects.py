"""Whether a dead letter would end as one again: the pipeline's own code tells, on today's source.

It is asked to bring the artifact from the source into the source itself, which reads it, verifies
it and puts nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from redis.exceptions import NoPermissionError

from sidecar.event import Reason, Rejected
from sidecar.pipeline import Admitted, Pipeline, Rules
from sidecar.policy import Bury, Mismatch, decide
from sidecar.redis.client import Client
from sidecar.redis.keys import Keys, identity_digest
from sidecar.redis.letters import DeadLetter
from sidecar.redis.publisher import BURIED, remembered
from store import Store, StoreError
from store import open as open_backend

NO_SOURCE: Final = "no --source-store was named: artifacts were not looked for"
SOURCE_AWAY: Final = "the source store cannot be reached: artifacts were not looked for"
NO_INDEX: Final = (
    "this Redis user may not read the deduplication index: event_ids were not looked up"
)


class Prospect(NamedTuple):
    """What can be said of a letter now."""

    ends: str = ""
    """As what it would end again; empty when nothing is known against it."""
    unseen: str = ""
    """What nobody could look at; empty when all was looked at. That is no verdict."""


class Prospects:
    """Judges letters. `of` raises redis-py's errors."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        source: Store | None,
        rules: Rules,
        *,
        without: str = NO_SOURCE,
    ) -> None:
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

    def of(self, letter: DeadLetter) -> Prospect:
        """Say what would become of it now."""
        try:
            admitted = self._pipeline.admit(letter.to_entry(), letter.origin)
        except Rejected as error:
            return Prospect(str(error))
        conflict = self._conflict(admitted)
        if conflict.ends:
            return conflict
        artifact = self._artifact(admitted)
        unseen = "; ".join(filter(None, (conflict.unseen, artifact.unseen)))
        return Prospect(artifact.ends, unseen)

    def _conflict(self, admitted: Admitted) -> Prospect:
        event_id = admitted.event.event_id
        try:
            (seen,) = remembered(self._client, self._keys, [identity_digest(event_id)])
        except NoPermissionError:
            return Prospect(unseen=NO_INDEX)
        if seen is None or seen.content_digest in (admitted.content_digest, BURIED):
            return Prospect()
        return Prospect(
            f"{Reason.ID_CONFLICT}: {event_id} was published with other content, as control_version"
            f" {seen.control_version}"
        )

    def _artifact(self, admitted: Admitted) -> Prospect:
        if not admitted.event.artifact_ref:
            return Prospect()
        if self._source is None:
            return Prospect(unseen=self._without)
        try:
            self._pipeline.carry(admitted, (0, 0))
        except (StoreError, Rejected, Mismatch) as error:
            verdict = decide(error, attempts=1, elapsed_s=0, budget_s=0)
            if isinstance(verdict, Bury):
                return Prospect(f"{verdict.reason}: {verdict.detail.partition(' (tried ')[0]}")
            self._source, self._without = None, SOURCE_AWAY  # who is away is not asked again
            return Prospect(unseen=SOURCE_AWAY)
        return Prospect()
