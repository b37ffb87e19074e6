"""What each reason of a dead letter means, and how to fix it."""

from __future__ import annotations

import re
import shlex
from typing import Final, NamedTuple

from sidecar.wire.event import Event, Reason


class Explanation(NamedTuple):
    """What happened to the entry, and what an operator does about it."""

    meaning: str
    fix: str
    prevent: str = ""
    """What keeps it from happening again, where the fix does not say it."""


EXPLANATIONS: Final[dict[Reason, Explanation]] = {
    Reason.ENTRY_LOST: Explanation(
        "The entry was deleted or trimmed from the control stream before it was finished.",
        "Nothing is left to redrive: let the producer send the event again, and stop whatever"
        " trims the control stream below its consumer group (XTRIM, MAXLEN on XADD).",
    ),
    Reason.TOO_LARGE: Explanation(
        "The entry is over 16 KiB, or the notification that would come of it over 8 KiB.",
        "Let the producer move the bulk into the artifact and send a smaller event under a new"
        " event_id.",
    ),
    Reason.MALFORMED: Explanation(
        "The entry has no field `event`, or it is not one JSON object in UTF-8.",
        "Fix the producer and let it send the event again; `detail` says where it goes wrong.",
    ),
    Reason.INVALID_EVENT: Explanation(
        "The event breaks a rule of the contract; `detail` names the field.",
        "Fix the producer and let it send the event again, with that field set right.",
        "Fix the producer: it sends what breaks the contract.",
    ),
    Reason.UNKNOWN_TYPE: Explanation(
        "The event's type is neither one of the contract's nor one that the worker allows.",
        "If the type is right, start the workers with --allow-type TYPE and redrive; else fix"
        " the producer.",
    ),
    Reason.FORBIDDEN_ID: Explanation(
        "The worker's --event-id-scope does not let this tenant use this event_id.",
        "If the tenant may, add an --event-id-scope pattern to the workers and redrive; if not,"
        " find out why the producer claims another's event_id. A producer of this tenant sends the"
        " event again under an event_id of the pattern's form.",
    ),
    Reason.BAD_REF: Explanation(
        "artifact_ref is no legal ref, or one that the store's backend cannot hold.",
        "Fix the producer: segments joined by single '/', no '.' or '..', no control"
        " characters, at most 1024 bytes. Then let it send the event again.",
    ),
    Reason.FORBIDDEN_REF: Explanation(
        "The worker's --tenant-scope does not let this tenant name this ref.",
        "Find out why the producer names REF, which is another's. If its tenant may, add a"
        " --tenant-scope pattern to the workers and redrive.",
    ),
    Reason.ID_CONFLICT: Explanation(
        "An event with this event_id was published before, with other content.",
        "Let the producer send the change again under an event_id of its own; redriving ends"
        " here again for as long as the deduplication window remembers the first.",
        "An event_id is for one event, also after its producer was set up anew: a UUID, or a"
        " counter that outlives the machine.",
    ),
    Reason.ARTIFACT_MISSING: Explanation(
        "Nothing lies at artifact_ref in the source store, nothing came within the retry budget,"
        " and the fleet's store does not have what the event pins either.",
        "Put the artifact there, or name the right --source-store to the workers; then redrive."
        " `sidecar store exists REF --store SOURCE_URL` looks.",
    ),
    Reason.CHECKSUM_MISMATCH: Explanation(
        "What the source store holds at artifact_ref is not what the event's checksum says, or"
        " is corrupt, and the fleet's store does not have what the event pins either.",
        "Put the right bytes there and redrive. Where the ref has been rewritten since (a store"
        " without versions), a later event carries the change and this one can be left.",
        "Nobody writes to a ref again that an event names, or the source store keeps versions.",
    ),
    Reason.ARTIFACT_TOO_LARGE: Explanation(
        "The artifact is larger than the workers' --max-artifact-size, or its manifest is over"
        " 16 MiB.",
        "Raise --max-artifact-size and redrive, or make the artifact smaller.",
    ),
    Reason.POISON: Explanation(
        "The worker died over this entry again and again, at last when it ran alone.",
        "Read the worker's log and the kernel's (out of memory?) from about `first_seen` on."
        " Redrive only when the cause is fixed.",
    ),
}

_UNKNOWN: Final = Explanation(
    "This release knows no such reason.", "Read it with the release of sidecar that wrote it."
)


def explain(reason: str) -> Explanation:
    """Return the explanation of a dead letter's reason, known to this release or not."""
    try:
        return EXPLANATIONS[Reason(reason)]
    except ValueError:
        return _UNKNOWN


def fix_of(reason: str, event: Event) -> str:
    """Return the fix with the event's own ref and type in it, as a shell takes them."""
    named = {"REF": event.artifact_ref, "TYPE": event.type}
    return re.sub(r"\b(REF|TYPE)\b", lambda word: shlex.quote(named[word[0]]), explain(reason).fix)
