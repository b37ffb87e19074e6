"""The pause that an erasure has of its tenant, in one control stream: nobody else lifts it.

What is noted of the pause names the erasure, by an id of its own, as `erasure` in the JSON. No
resume by hand touches such a pause, and no second erasure takes it unless it is told that the
first was killed. A pause of a person, or of a worker, is held in addition, and stays.
"""

from __future__ import annotations

import secrets
import time
from typing import Final

import orjson

from sidecar.redis.client import Client
from sidecar.redis.halts import Halt
from sidecar.redis.keys import Keys
from sidecar.redis.tenants import Held, halt_of, holder_of, run
from sidecar.wire.moments import rfc3339

OURS: Final = "erase: "
"""How the reason begins of a pause that goes with its erasure, for people."""


class Hold:
    """Holds one tenant. Every method raises `RedisError`."""

    def __init__(self, client: Client, keys: Keys, tenant: str, *, reason: str, by: str) -> None:
        self._client, self._keys, self._tenant = client, keys, tenant
        self._reason, self._by, self._id = f"{OURS}{reason}", by, secrets.token_hex(8)
        self._noted = b""

    def take(self, *, over: bool) -> None:
        """Pause the tenant, or hold the pause that there is; `over` also that of an erasure.

        Raises `Held`.
        """
        now = _now()
        mine = {"id": self._id, "since": now, "by": self._by}
        found, wanted = b"", _noted(Halt(self._reason, now, self._by), mine, paused=True)
        while (noted := self._note(wanted, found)) != wanted:
            before = holder_of(noted)
            if before is not None and not over:
                raise Held(self._tenant, noted)
            paused = before is not None and before.get("paused") is True
            found, wanted = noted, _noted(halt_of(noted), mine, paused=paused)
        self._noted = wanted

    def is_kept(self) -> bool:
        """Tell whether the tenant is held all the same."""
        return self._client.hget(self._keys.paused, self._tenant) == self._noted

    def release(self) -> None:
        """Let the tenant continue, unless a person had paused it, or another has the pause."""
        halt, mine = halt_of(self._noted), holder_of(self._noted) or {}
        if mine.get("paused"):
            run(self._client, "resume_tenant", self._keys, halt.reason, _now(), self._by,
                self._tenant, self._noted)  # fmt: skip
        elif self.is_kept():
            self._note(orjson.dumps(halt._asdict()), self._noted)

    def _note(self, noted: bytes, in_place_of: bytes) -> bytes:
        """Have this noted of the pause; return what is noted now."""
        return run(self._client, "pause_tenant", self._keys, self._reason, _now(), self._by,
                   self._tenant, noted, in_place_of)[1]  # fmt: skip


def _noted(halt: Halt, mine: dict[str, str], *, paused: bool) -> bytes:
    """Return the note of a pause. `paused` tells that the erasure made it, and so ends it."""
    return orjson.dumps(halt._asdict() | {"erasure": mine | {"paused": paused}})


def _now() -> str:
    return rfc3339(time.time_ns() // 1000)
