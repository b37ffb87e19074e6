"""What should hold, judged by what the product's own commands print.

Only where the entries themselves must tell, their IDs and sizes, they come from a plain XRANGE.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sidecar.feed import Notification

MAX_NOTIFICATION_BYTES: Final = 8 * 1024
"""docs/contract.md, G5."""
Lines = Sequence[Mapping[str, Any]]


class Claim(NamedTuple):
    """Something that should hold, and what was found."""

    name: str
    held: bool
    found: str


class Evidence(NamedTuple):
    """What there is to judge by, once all is done."""

    summary: Mapping[str, Any]
    """The last line of `sidecar audit`."""
    culprits: Lines
    """The lines before it."""
    status: Mapping[str, Any]
    """`sidecar status`."""
    dead: Lines
    """`sidecar dead ls --each`."""
    trace: Lines
    """`sidecar trace` of the event that was sent more than once."""
    notifications: Sequence[Notification]
    """The feed, from the oldest."""
    entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]
    """The same, as XRANGE has it."""

    def against(self, guarantee: str) -> list[str]:
        """Name what the audit found to break a guarantee."""
        return [
            f"{one['problem']} {one['event_id'] or one['entry'] or one['notification']}"
            for one in self.culprits
            if one["guarantee"] == guarantee
        ]


def judge(
    evidence: Evidence, sent: int, bad: Mapping[str, str], twice: str, in_hand: Sequence[str]
) -> list[Claim]:
    """Return all claims about what Redis and the fleet's store hold.

    Given is what was done: the number of events sent, the origins of the `bad` ones with the reason
    that each should end for, the event_id that was sent `twice`, and the origins of the entries
    that the killed worker had in hand.
    """
    return [
        _nothing_lost(evidence, sent),
        _nothing_twice(evidence),
        _in_order(evidence),
        _positions(evidence),
        _artifacts(evidence),
        _references(evidence),
        _set_aside(evidence, bad),
        _absorbed(evidence, twice),
        _survived(evidence, in_hand),
    ]


def _claim(name: str, wrong: Sequence[str], found: str, *, also: bool = True) -> Claim:
    """Hold that nothing is wrong, and what else is needed; name what is wrong."""
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    named = f"; {', '.join(wrong[:3])}{more}" if wrong else ""
    return Claim(name, not wrong and also, found + named)


def _nothing_lost(evidence: Evidence, sent: int) -> Claim:
    found, (stream,) = evidence.summary, evidence.status["streams"]
    notified, duplicates, dead = (
        found[end] for end in ("notifications", "duplicates", "dead_letters")
    )
    left = found["waiting"] + found["expired"] + stream["pending"] + (stream["lag"] or 0)
    balanced = sent == found["entries"] == notified + duplicates + dead
    return _claim(
        "nothing lost",
        evidence.against("G3"),
        f"{sent:,} events sent = {notified:,} notifications + {duplicates} duplicate"
        f" + {dead} dead letters; {left} left over",
        also=found["complete"] and balanced and not left and stream["lag"] == 0,
    )


def _nothing_twice(evidence: Evidence) -> Claim:
    published, event_ids = len(evidence.entries), {n.event_id for n in evidence.notifications}
    found = f"{published:,} notifications have {len(event_ids):,} event_ids"
    also = len(event_ids) == published
    return _claim("nothing twice", evidence.against("G2"), found, also=also)


def _in_order(evidence: Evidence) -> Claim:
    late = evidence.against("G4")
    tenants = len({n.tenant_id for n in evidence.notifications if n.tenant_id})
    found = f"{tenants} tenants, {len(late)} notifications out of place"
    return _claim("each tenant's order kept", late, found)


def _positions(evidence: Evidence) -> Claim:
    versions = [n.control_version for n in evidence.notifications]
    wanted = [f"{version // 1000}-{version % 1000}" for version in versions]
    ids = [id_.decode() for id_, _ in evidence.entries]
    found = f"{len(ids):,} times, and it always rises, up to {max(versions, default=0)}"
    wrong = sorted(set(ids).symmetric_difference(wanted))
    also = ids == wanted and versions == sorted(set(versions))
    return _claim("control_version is the entry ID", wrong, found, also=also)


def _artifacts(evidence: Evidence) -> Claim:
    wrong, read = evidence.against("G1"), evidence.summary["artifacts"]
    refs = Counter(n.artifact_ref for n in evidence.notifications if n.artifact_ref)
    ref, most = max(refs.items(), key=lambda item: item[1], default=("", 0))
    return _claim(
        "every pinned artifact there",
        wrong,
        f"{read - len(wrong):,} of {refs.total():,} read and hashed again,"
        f" {size(evidence.summary['size_bytes'])}; {ref} in {most} versions",
        also=read == refs.total(),
    )


def _references(evidence: Evidence) -> Claim:
    sizes = [sum(map(len, (*fields, *fields.values()))) for _, fields in evidence.entries]
    large = [f"{each:,} bytes" for each in sizes if each > MAX_NOTIFICATION_BYTES]
    found = (
        f"at most {max(sizes, default=0):,} bytes a notification; all have {size(sum(sizes))},"
        f" their artifacts {size(evidence.summary['size_bytes'])}"
    )
    return _claim("references only", large, found)


def _set_aside(evidence: Evidence, bad: Mapping[str, str]) -> Claim:
    dead = {one["origin"]: one["reason"] for one in evidence.dead}
    wrong = [n.event_id for n in evidence.notifications if n.origin in bad]
    found = f"{', '.join(sorted(dead.values()))}; {len(wrong)} of them published"
    also = dead == bad and len(evidence.dead) == len(bad)
    return _claim("bad events set aside, with a reason", wrong, found, also=also)


def _absorbed(evidence: Evidence, event_id: str) -> Claim:
    ends = Counter(one["end"] for one in evidence.trace)
    found = f"{event_id}: {ends['duplicate']} duplicate, {ends['published']} notification"
    also = (ends["duplicate"], ends["published"]) == (1, 1)
    return _claim("sent twice, published once", [], found, also=also)


def _survived(evidence: Evidence, in_hand: Sequence[str]) -> Claim:
    times = Counter(n.origin for n in evidence.notifications)
    wrong = [origin for origin in in_hand if times[origin] != 1]
    good = f"{len(in_hand) - len(wrong)} of {len(in_hand)}"
    found = f"{good} it had in hand are published, once"
    return _claim("a killed worker's entries", wrong, found, also=bool(in_hand))


def size(size_bytes: float) -> str:
    """Write a size for a person."""
    if size_bytes < 1 << 20:
        return f"{size_bytes / (1 << 10):.0f} KiB"
    return f"{size_bytes / (1 << 20):.1f} MiB"
