"""Whether a dead letter would end as one again: the pipeline's own code tells, on today's source.

It is asked to bring the artifact from the source into the source itself, which reads it, verifies
it and puts nothing.
"""

from __future__ import annotations

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


class Prospects:
    """Judges letters. `of` raises redis-py's errors."""

    def __init__(self, client: Client, keys: Keys, source: Store | None, rules: Rules) -> None:
        """Without `source`, nothing is said of artifacts; `rules` are those of the workers."""
        self._client = client
        self._keys = keys
        self._source = source
        judged = source or open_backend("memory")
        self._pipeline = Pipeline(judged, judged, rules)

    def of(self, letter: DeadLetter) -> str:
        """Say as what it would end again; empty when it would not, or nobody can tell now."""
        try:
            admitted = self._pipeline.admit(letter.to_entry(), letter.origin)
        except Rejected as error:
            return str(error)
        return self._conflict(admitted) or self._artifact(admitted)

    def _conflict(self, admitted: Admitted) -> str:
        event_id = admitted.event.event_id
        try:
            (seen,) = remembered(self._client, self._keys, [identity_digest(event_id)])
        except NoPermissionError:
            return ""  # a user that may append to what it may read had better not read the index
        if seen is None or seen.content_digest in (admitted.content_digest, BURIED):
            return ""
        return (
            f"{Reason.ID_CONFLICT}: {event_id} was published with other content, as control_version"
            f" {seen.control_version}"
        )

    def _artifact(self, admitted: Admitted) -> str:
        if self._source is None or not admitted.event.artifact_ref:
            return ""
        try:
            self._pipeline.carry(admitted, (0, 0))
        except (StoreError, Rejected, Mismatch) as error:
            verdict = decide(error, attempts=1, elapsed_s=0, budget_s=0)
            if isinstance(verdict, Bury):
                return f"{verdict.reason}: {verdict.detail.partition(' (tried ')[0]}"
        return ""  # also when the source is away: that is no verdict
