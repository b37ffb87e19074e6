"""What its producer sent again, and is published, is redriven only where the index absorbs it."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import pytest

from sidecar.ops.predictions import Predictions
from sidecar.ops.redrive import RedriveOrder, Redriver
from sidecar.redis.client import Side, connect
from sidecar.redis.keys import Keys
from sidecar.wire.event import content_digest
from sidecar.wire.identity import identity_digest
from sidecar.worker.pipeline import Rules
from tests.cli.harness import NOTIFICATIONS, REDRIVEN, STREAM, Cli

KEYS: Final = Keys.of(STREAM, NOTIFICATIONS)
BEFORE_MS: Final = int(time.time() * 1000) - 60_000
PUBLISHED_MS: Final = BEFORE_MS + 5
SUBJECTS: Final[dict[str, dict[str, Any]]] = {
    "stack": {"stack_id": "web", "type": "key.changed"},
    "ref": {"artifact_ref": "rows/a", "checksum": "sha256:" + "0" * 64, "type": "key.changed"},
    "neither": {"type": "run.abort"},
}


def event(about: str, **fields: Any) -> dict[str, Any]:
    """Return an event about a stack, a ref, or neither."""
    return {"event_id": "e", "tenant_id": "t", **SUBJECTS[about], **fields}


@pytest.fixture(params=SUBJECTS)
def about(request: pytest.FixtureRequest, sidecar: Cli) -> str:
    """Plant the dead letter of an event; return what the event is about."""
    sidecar.lay_out()
    sidecar.client.xgroup_create(STREAM, KEYS.group, "$", mkstream=True)
    sidecar.letter(event(str(request.param)), f"{BEFORE_MS}-0")
    return str(request.param)


def publish(sidecar: Cli, about: str, at_ms: int = PUBLISHED_MS, **fields: Any) -> None:
    """Plant the notification of an event that was sent again; the index knows nothing of it."""
    said = event(about, control_version=at_ms * 1000, **fields)
    sidecar.notification(said, f"{at_ms}-0", f"{STREAM}/{at_ms - 1}-0")


def redrive(sidecar: Cli, *args: str) -> tuple[int, dict[str, Any]]:
    """Put the one letter back; return the exit code and what is told of it."""
    ran = sidecar("dead", "redrive", "--all", "--json", "--reason", "x", *args)
    return ran.code, ran.object()


def refused(sidecar: Cli, *words: str) -> None:
    """Make sure that it is refused, tried dry too, and that the message has these words."""
    for args in (("--dry-run",), ()):
        code, told = redrive(sidecar, *args)
        assert (code, told["result"], told["event_id"]) == (3, "refused", "e")
        assert all(word in told["detail"] for word in words), told["detail"]
    assert sidecar.client.xlen(STREAM) == 0


def test_what_is_published_is_not_published_again(sidecar: Cli, about: str) -> None:
    """The index has forgotten it: refused by name, unless forced, and the record says over what."""
    publish(sidecar, about)
    refused(sidecar, f"published already, as control_version {PUBLISHED_MS}000", "has forgotten it")
    code, told = redrive(sidecar, "--force")
    assert (code, told["result"]) == (0, "redriven")
    assert "published already" in sidecar.entries(REDRIVEN)[-1]["forced"]


def test_that_it_is_published_is_said_before_what_overtook_it(sidecar: Cli) -> None:
    """Sent again, and a newer one after it: the letter has nothing left to bring."""
    sidecar.client.xgroup_create(STREAM, KEYS.group, "$", mkstream=True)
    sidecar.letter(event("stack"), f"{BEFORE_MS}-0")
    publish(sidecar, "stack")
    publish(sidecar, "stack", PUBLISHED_MS + 9, event_id="newer")
    refused(sidecar, "published already")
    told = sidecar("dead", "show", letter_of(sidecar), "--json").object()
    assert told["published"] == PUBLISHED_MS * 1000
    assert "newer overtook it" in told["overtaken"]


def letter_of(sidecar: Cli) -> str:
    """Return the ID of the one letter."""
    return str(sidecar("dead", "ls", "--each", "--json").object()["id"])


def test_what_the_index_knows_goes_back_and_is_absorbed(sidecar: Cli, about: str) -> None:
    """Then nothing is published a second time, and the letter is settled."""
    publish(sidecar, about)
    remember(sidecar, about)
    code, told = redrive(sidecar)
    assert (code, told["result"]) == (0, "redriven"), told
    assert sidecar.client.xlen(KEYS.dead) == 0


def remember(sidecar: Cli, about: str) -> None:
    """Have the index know the event as it was published."""
    digest, content = identity_digest("e"), content_digest(event(about))
    sidecar.client.hset(KEYS.seen(digest), digest[2:], content + b"%d000" % PUBLISHED_MS)


def test_what_was_published_before_the_entry_came_is_no_reason(sidecar: Cli, about: str) -> None:
    """It was sent again after that, out of the window: a worker would publish it as well."""
    publish(sidecar, about, BEFORE_MS - 8 * 86_400_000)
    code, told = redrive(sidecar, "--dry-run")
    assert (code, told["result"]) == (0, "would be redriven"), told


def test_another_events_notification_is_no_reason(sidecar: Cli, about: str) -> None:
    """Only the same event_id is the same event."""
    publish(sidecar, about, event_id="other", stack_id="api", artifact_ref="", checksum="")
    assert redrive(sidecar, "--dry-run")[1]["result"] == "would be redriven"


def trim(sidecar: Cli, *archived: str) -> None:
    """Trim the notification, as a worker does that keeps a later one; archived first, or not."""
    publish(sidecar, "stack", PUBLISHED_MS + 9, event_id="last", stack_id="else")
    if archived:
        ran = sidecar("archive")
        assert ran.code == 0, ran.err
    sidecar.trim(NOTIFICATIONS, 1)


def test_the_archive_tells_what_is_published(sidecar: Cli, about: str) -> None:
    """Its notification was trimmed, and lies there."""
    publish(sidecar, about)
    trim(sidecar, "archived")
    refused(sidecar, f"published already, as control_version {PUBLISHED_MS}000")


def test_without_an_archive_nobody_can_tell_whether_it_is_published(
    sidecar: Cli, about: str
) -> None:
    """Notifications since it came were trimmed: refused also where nothing could overtake it."""
    publish(sidecar, about)
    trim(sidecar)
    refused(sidecar, "nobody can tell", "whether it is published", "--fleet-store")
    assert redrive(sidecar, "--force")[0] == 0


def test_what_the_index_knows_need_be_told_by_nobody(sidecar: Cli) -> None:
    """Of what nothing overtakes, and is absorbed, no trimmed notification says more."""
    sidecar.client.xgroup_create(STREAM, KEYS.group, "$", mkstream=True)
    sidecar.letter(event("neither"), f"{BEFORE_MS}-0")
    publish(sidecar, "neither")
    trim(sidecar)
    remember(sidecar, "neither")
    assert redrive(sidecar, "--dry-run")[1]["result"] == "would be redriven"


def test_who_may_not_read_the_index_is_refused_and_told_so(sidecar: Cli) -> None:
    """As the `redriver` of deploy/ may not: whether it would be absorbed is not known."""
    sidecar.client.xgroup_create(STREAM, KEYS.group, "$", mkstream=True)
    sidecar.letter(event("stack"), f"{BEFORE_MS}-0")
    publish(sidecar, "stack")
    remember(sidecar, "stack")
    sidecar.client.acl_setuser(
        "blind", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-hget"]
    )
    order = RedriveOrder(streams={STREAM}, reason="x", by="me")
    with connect(sidecar.url.replace("://", "://blind:x@")) as blind:
        judge = Predictions(blind, KEYS, None, Rules())
        (outcome,) = Redriver(Side(blind, sidecar.url), blind, KEYS, order, judge).all()
    assert outcome.result == "refused"
    assert "may have forgotten it: this Redis user may not read it" in outcome.detail


@pytest.mark.parametrize("known", [False, True])
def test_a_repair_does_not_publish_an_event_id_twice(sidecar: Cli, *, known: bool) -> None:
    """Lost, and published since with other content: only an index that knows of it judges that."""
    sidecar.lay_out()
    sidecar.client.xgroup_create(STREAM, KEYS.group, "0", mkstream=True)
    lost: dict[Any, Any] = {"event": json.dumps(event("neither", version=1))}
    sidecar.client.xadd(STREAM, lost, id=f"{BEFORE_MS}-0")
    sidecar.client.xreadgroup(KEYS.group, "worker", {STREAM: ">"})
    sidecar.client.xack(STREAM, KEYS.group, f"{BEFORE_MS}-0")
    publish(sidecar, "neither")
    if known:
        remember(sidecar, "neither")
    ran = sidecar("audit", "--repair", "--json", "--reason", "x")
    (told,) = (one["repair"] for one in ran.objects() if one.get("problem") == "lost")
    if known:  # the worker buries it for its content, as it should have
        assert (told["result"], sidecar.client.xlen(STREAM)) == ("fixed", 2)
        return
    assert (told["result"], sidecar.client.xlen(STREAM)) == ("refused", 1), told
    assert f"published already, as control_version {PUBLISHED_MS}000" in told["detail"]
