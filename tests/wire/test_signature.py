"""Signatures of notifications: who made one, for which notification, in which place."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import UsageError
from sidecar.wire.ids import EntryId
from sidecar.wire.keyfiles import new_pair, private_key, public_key
from sidecar.wire.keyring import BROKEN_S, LOOK_EVERY_S
from sidecar.wire.signature import MOST_BYTES, MOST_LEAVES, Signature, key_id, leaf, tree
from sidecar.wire.signing import Signer
from sidecar.wire.trust import Trust, Untrusted

STREAM = "control:notifications"
FIRST = 1_791_234_567_890_123
Fields = dict[bytes, bytes]


class Clock:
    """A clock that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


class Fleet:
    """A worker's key, and the directory of those who trust it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "trust"
        self.directory.mkdir()
        self.signer = self.key("first")
        self.clock = Clock()
        self.trust = Trust(self.directory, clock=self.clock)

    def key(self, name: str, above: str = "") -> Signer:
        """Make a key; trust it."""
        private = self.directory.parent / name
        public, _ = new_pair(private)
        self.say(name, above + public.read_text())
        return Signer(private)

    def say(self, name: str, text: str) -> None:
        """Write a file of the trust directory."""
        (self.directory / f"{name}.pub").write_text(text)

    def later(self) -> None:
        """Let so much time pass that the directory is looked at again."""
        self.clock.now_s += LOOK_EVERY_S


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """One worker, and who trusts it."""
    return Fleet(tmp_path)


def written(number: int, **more: object) -> Fields:
    """Return a notification that nobody signed."""
    event = {"event_id": f"e{number}", "type": "t", **more, "control_version": FIRST + number}
    raw = json.dumps(event, separators=(",", ":")).encode()
    return {b"event": raw, b"origin": b"control:events/7-%d" % number}


def signed(by: Signer, count: int, stream: str = STREAM) -> list[Fields]:
    """Return notifications that were published together, and signed."""
    found = [written(number) for number in range(count)]
    signatures = by.signed(stream, [(one[b"origin"], one[b"event"]) for one in found])
    return [{**one, b"signature": each} for one, each in zip(found, signatures, strict=True)]


def at(number: int) -> EntryId:
    """Return where a notification lies."""
    return EntryId.of_version(FIRST + number)


def refused(fleet: Fleet, number: int, fields: Fields, stream: str = STREAM) -> str:
    """Return as what a notification is refused."""
    with pytest.raises(Untrusted) as refusal:
        fleet.trust.check(stream, at(number), fields)
    assert refusal.value.cursor == FIRST + number
    assert str(at(number)) in str(refusal.value)
    return refusal.value.kind


# --- what is signed -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 63, 64, 65, 130])
def test_each_of_a_run_is_verified_by_itself(fleet: Fleet, count: int) -> None:
    """However many were published together, and whatever a reader has seen of them."""
    for number, fields in reversed(list(enumerate(signed(fleet.signer, count)))):
        Trust(fleet.directory).check(STREAM, at(number), fields)
        fleet.trust.check(STREAM, at(number), fields)
        assert len(b"signature" + fields[b"signature"]) <= MOST_BYTES


@given(st.binary(), st.binary(), st.binary(), st.binary())
def test_no_other_origin_and_event_have_the_same_leaf(
    a: bytes, b: bytes, c: bytes, d: bytes
) -> None:
    """Wherever one ends and the other begins."""
    assert (leaf(a, b) == leaf(c, d)) == ((a, b) == (c, d))
    assert leaf(a, b) != leaf(a + b, b"")[::-1]


def test_a_tree_is_not_made_of_nothing() -> None:
    """Nor of more than it may have."""
    for leaves in ([], [bytes(32)] * (MOST_LEAVES + 1)):
        with pytest.raises(ValueError, match="a tree has 1 to"):
            tree(leaves)


# --- forgeries ------------------------------------------------------------------------------------


def _event(fields: Fields, old: bytes, new: bytes) -> Fields:
    assert old in fields[b"event"]
    return {**fields, b"event": fields[b"event"].replace(old, new)}


def _swap(run: list[Fields], number: int, signature_of: int) -> Fields:
    return {**run[number], b"signature": run[signature_of][b"signature"]}


def _reordered(fields: Fields) -> Fields:
    body = dict(reversed(json.loads(fields[b"event"]).items()))
    return {**fields, b"event": json.dumps(body, separators=(",", ":")).encode()}


STAMP = b',"control_version"'
FORGERIES: dict[str, tuple[str, Callable[[list[Fields]], Fields]]] = {
    "stripped": ("unsigned", lambda run: {k: v for k, v in run[3].items() if k != b"signature"}),
    "moved to another event": ("altered", lambda run: _swap(run, 3, 4)),
    "an event in another's place": ("altered", lambda run: _swap(run, 4, 3)),
    "a byte of the event": ("altered", lambda run: _event(run[3], b"e3", b"e9")),
    "the order of its fields": ("altered", lambda run: _reordered(run[3])),
    "white space": ("altered", lambda run: _event(run[3], b'"type":', b'"type": ')),
    "another origin": ("altered", lambda run: {**run[3], b"origin": b"control:events/8-3"}),
    "a repeated key": ("altered", lambda run: _event(run[3], STAMP, b',"type":"x"' + STAMP)),
    "no origin": ("foreign", lambda run: {b"event": run[3][b"event"]}),
    "no event": ("foreign", lambda run: {b"origin": run[3][b"origin"]}),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_was_changed_is_not_trusted(fleet: Fleet, name: str) -> None:
    """And is told as what it is."""
    kind, forge = FORGERIES[name]
    run = signed(fleet.signer, 8)
    fleet.trust.check(STREAM, at(3), run[3])
    assert refused(fleet, 3, forge(run)) == kind


def test_a_notification_of_another_place_is_not_trusted(fleet: Fleet) -> None:
    """Neither published again later, nor with its control_version written anew, nor elsewhere."""
    run = signed(fleet.signer, 4)
    assert refused(fleet, 9, run[2]) == "altered"
    moved = _event(run[2], b"%d" % (FIRST + 2), b"%d" % (FIRST + 9))
    assert refused(fleet, 9, moved) == "altered"
    assert refused(fleet, 2, run[2], "lab:notifications") == "altered"
    assert refused(fleet, 2, signed(fleet.signer, 4, "lab:notifications")[2]) == "altered"


def test_no_second_id_stands_for_a_place(fleet: Fleet) -> None:
    """`5-1000` converts to the control_version of `6-0`: it would be that notification twice."""
    run = signed(fleet.signer, 1)
    place = at(0)
    fleet.trust.check(STREAM, place, run[0])
    ms, sequence = place.pair
    with pytest.raises(Untrusted, match="did not sign") as caught:
        fleet.trust.check(STREAM, EntryId.of(ms - 1, sequence + 1000), run[0])
    assert caught.value.kind == "altered"


def test_a_control_version_inside_the_event_is_no_place(fleet: Fleet) -> None:
    """What a producer puts into a field of its own does not stand for the stamp."""
    inner = written(0, x={"control_version": FIRST + 5})
    (signature,) = fleet.signer.signed(STREAM, [(inner[b"origin"], inner[b"event"])])
    assert refused(fleet, 5, {**inner, b"signature": signature}) == "altered"


NO_SIGNATURES = [
    b"", b"1", b"2 %b 0 %b", b"1 %b 0 %b more", b"1 %b -1 %b", b"1 %b 99999999999999999999 %b",
    b"1 %b 1 %b", b"1 %b \xff %b", b"1 short 0 %b", b"1 %b 0 %b=", b"1 %b 0 ",
    *(b"1 %b 0 " + b64encode(bytes(size)) for size in (63, 65, 64 + 32 * 17)),
    b"\xff" * 400, b" " * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("form", NO_SIGNATURES)
def test_what_is_no_signature_is_told(fleet: Fleet, form: bytes) -> None:
    """Whatever lies in the field."""
    parts = (fleet.signer.key_id.encode(), b64encode(bytes(64)))
    raw = form.replace(b"%b", parts[0], 1).replace(b"%b", parts[1], 1)
    assert refused(fleet, 0, {**written(0), b"signature": raw}) == "no_signature"


def test_any_byte_of_a_signature_counts(fleet: Fleet) -> None:
    """One bit off in the key's id, the leaf's number, the signature or a sibling."""
    (one, *_) = signed(fleet.signer, 4)
    for place in range(len(one[b"signature"])):
        raw = bytearray(one[b"signature"])
        raw[place] ^= 1
        with pytest.raises(Untrusted):
            fleet.trust.check(STREAM, at(0), {**one, b"signature": bytes(raw)})


def test_a_root_is_not_taken_for_a_leaf() -> None:
    """A signature over a tree does not hold for a part of it."""
    leaves = [leaf(b"o", b"%d" % number) for number in range(4)]
    root, ways = tree(leaves)
    halves = tree(leaves[:2])[0], tree(leaves[2:])[0]
    assert Signature("k", 2, b"", ways[2]).root(leaves[2]) == root
    assert tree([b"".join(halves)])[0] != root


# --- keys -----------------------------------------------------------------------------------------


def test_only_a_trusted_key_counts(fleet: Fleet, tmp_path: Path) -> None:
    """A signature by a key of one's own is as good as none, also under the id of a trusted one."""
    new_pair(tmp_path / "own")
    own = signed(Signer(tmp_path / "own"), 1)[0]
    assert refused(fleet, 0, own) == "unknown_key"
    _, rest = own[b"signature"].split(b" ", 2)[1:]
    lent = b"1 %b %b" % (fleet.signer.key_id.encode(), rest)
    assert refused(fleet, 0, {**own, b"signature": lent}) == "altered"


def test_keys_come_and_go_while_a_reader_runs(fleet: Fleet) -> None:
    """Rotation: add the new key, then sign with it, then remove the old one."""
    old = signed(fleet.signer, 1)[0]
    second = fleet.key("second")
    new = signed(second, 1)[0]
    assert refused(fleet, 0, new) == "unknown_key"
    fleet.later()
    fleet.trust.check(STREAM, at(0), new)
    fleet.trust.check(STREAM, at(0), old)
    (fleet.directory / "first.pub").unlink()
    fleet.later()
    fleet.trust.check(STREAM, at(0), new)
    assert refused(fleet, 0, old) == "unknown_key"


def test_a_seal_lends_no_key_what_it_lacks(fleet: Fleet) -> None:
    """What another key vouches for counts only while the key of the notification is good, too."""
    second, one = fleet.key("second"), signed(fleet.signer, 1)[0]
    fleet.later()
    altered = {**one, b"origin": b"control:events/8-0"}
    fleet.trust.check(STREAM, at(0), altered, sealer=second.key_id)  # as far as a seal is believed
    fleet.say("first", "revoked: stolen\n" + (fleet.directory / "first.pub").read_text())
    fleet.later()
    for found in (one, altered):
        with pytest.raises(Untrusted) as refusal:
            fleet.trust.check(STREAM, at(0), found, sealer=second.key_id)
        assert refusal.value.kind == "revoked"
    with pytest.raises(Untrusted):
        fleet.trust.check(STREAM, at(0), written(0), sealer=second.key_id)


def test_a_key_has_its_time(fleet: Fleet) -> None:
    """Of what was published: an old notification stays good by a key that is not used any more."""
    public = (fleet.directory / "first.pub").read_text()
    one = signed(fleet.signer, 1)[0]
    for above, kind in {
        "not-before: 2026-01-01T00:00:00Z\nnot-after: 2027-01-01T00:00:00Z\n": "",
        "# ours\n\nnot-after: 2026-10-03T22:00:00Z\n": "out_of_date",
        "not-before: 2026-12-01T00:00:00+01:00\n": "out_of_date",
        "revoked: laptop stolen\n": "revoked",
    }.items():
        fleet.say("first", above + public)
        fleet.later()
        if kind:
            assert refused(fleet, 0, one) == kind
        else:
            fleet.trust.check(STREAM, at(0), one)


@pytest.mark.parametrize("above", [
    "not-after: yesterday\n", "not-after: 2026-10-03\n", "not-after:\n", "expires: 2026\n",
    "revoked: a\nrevoked: b\n", "anything\n",
])  # fmt: skip
def test_a_line_above_a_key_that_says_nothing_is_refused(fleet: Fleet, above: str) -> None:
    """A mistyped end of a key would let it be trusted for ever."""
    fleet.say("first", above + (fleet.directory / "first.pub").read_text())
    with pytest.raises(UsageError, match=r"first\.pub"):
        Trust(fleet.directory)


@pytest.mark.parametrize("below", ["revoked: stolen\n", "not-after: 2026-01-01T00:00:00Z\n", "key"])
def test_what_stands_below_a_key_is_refused(fleet: Fleet, below: str) -> None:
    """Who appends `revoked:` to the file has not revoked the key, and is told."""
    whole = (fleet.directory / "first.pub").read_text()
    fleet.say("first", whole + (whole if below == "key" else below))
    with pytest.raises(UsageError, match=r"first\.pub: something stands below the key"):
        Trust(fleet.directory)
    fleet.say("first", whole + "\n \n")
    Trust(fleet.directory)


def test_a_key_whose_file_is_broken_is_believed_for_seconds_only(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be half written, or hold a revocation with a mistake in it. It is told, once."""
    one = signed(fleet.signer, 1)[0]
    whole = (fleet.directory / "first.pub").read_text()
    for broken in ("", whole[:40], "x" * 100_000):
        fleet.say("first", broken)
        fleet.later()
        fleet.trust.check(STREAM, at(0), one)
    assert sum("believed for 10 s more" in line for line in caplog.messages) == 3
    fleet.say("first", "revokd: laptop stolen\n" + whole)
    fleet.clock.now_s += BROKEN_S
    for _ in range(3):
        assert refused(fleet, 0, one) == "unknown_key"
        fleet.later()
    with pytest.raises(Untrusted, match=r"broken there: first\.pub"):
        fleet.trust.check(STREAM, at(0), one)
    assert sum("no key of this file is believed" in line for line in caplog.messages) == 1
    fleet.say("first", "revoked: at last\n" + whole)
    fleet.later()
    assert refused(fleet, 0, one) == "revoked"
    fleet.say("first", whole)
    fleet.later()
    fleet.trust.check(STREAM, at(0), one)


def test_a_broken_file_keeps_no_other_from_being_read(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """A key is revoked, and another added, beside a file that holds none."""
    one, second = signed(fleet.signer, 1)[0], fleet.key("second")
    fleet.say("third", "no key")
    fleet.say("first", "revoked: laptop stolen\n" + (fleet.directory / "first.pub").read_text())
    fleet.later()
    assert refused(fleet, 0, one) == "revoked"
    fleet.trust.check(STREAM, at(0), signed(second, 1)[0])
    assert any("third.pub holds no public key" in line for line in caplog.messages)


def test_of_a_key_in_two_files_the_stricter_counts(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """Who adds a file with a revocation has revoked the key, though the old file is there."""
    one, whole = signed(fleet.signer, 1)[0], (fleet.directory / "first.pub").read_text()
    for name, above, kind in (
        ("a", "revoked: stolen\n", "revoked"), ("z", "revoked: stolen\n", "revoked"),
        ("a", "not-after: 2026-10-03T22:00:00Z\n", "out_of_date"),
    ):  # fmt: skip
        fleet.say(name, above + whole)
        fleet.later()
        assert refused(fleet, 0, one) == kind
        (fleet.directory / f"{name}.pub").unlink()
    assert any("are one key; what is stricter counts" in line for line in caplog.messages)


def test_keys_that_are_all_gone_are_believed_no_more(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """To remove the only file is to trust nobody. A directory that cannot be read says nothing."""
    one, away = signed(fleet.signer, 1)[0], fleet.directory.with_name("away")
    fleet.directory.rename(away)
    fleet.later()
    fleet.trust.check(STREAM, at(0), one)
    away.rename(fleet.directory)
    (fleet.directory / "first.pub").unlink()
    fleet.later()
    assert refused(fleet, 0, one) == "unknown_key"
    told = ["the keys stay as they were", "has no keys any more"]
    assert [word for word in told if any(word in line for line in caplog.messages)] == told


def test_a_directory_has_keys_and_no_secrets(fleet: Fleet, tmp_path: Path) -> None:
    """What cannot be meant is refused at the start, in words that name the file."""
    private = (tmp_path / "first").read_text()
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    curve = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for name, text in {"twice": (fleet.directory / "first.pub").read_text(), "secret": private,
                       "curve": curve, "none": "hello"}.items():  # fmt: skip
        fleet.say(name, text)
        with pytest.raises(UsageError, match=name):
            Trust(fleet.directory)
        (fleet.directory / f"{name}.pub").unlink()
    (fleet.directory / "README").write_text("no key, and none of ours")
    (fleet.directory / "directory.pem").mkdir()
    with pytest.raises(UsageError, match=r"directory\.pem cannot be read"):
        Trust(fleet.directory)
    for empty in (tmp_path / "absent", tmp_path):
        with pytest.raises(UsageError, match=r"cannot be read|has 0 files"):
            Trust(empty / "nothing" if empty == tmp_path else empty)


def test_unsigned_ones_may_be_let_through_up_to_a_position(fleet: Fleet) -> None:
    """From before the worker had a key; what has a signature must have a good one there, too."""
    lenient = Trust(fleet.directory, unsigned_until=FIRST + 3)
    lenient.check(STREAM, at(3), written(3))
    with pytest.raises(Untrusted):
        lenient.check(STREAM, at(4), written(4))
    with pytest.raises(Untrusted):
        lenient.check(
            STREAM, at(3), {**written(3), b"signature": signed(fleet.signer, 2)[1][b"signature"]}
        )


# --- files ----------------------------------------------------------------------------------------


def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    """Return a private key as a file has it."""
    how = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def test_a_new_key_is_its_owners_alone(tmp_path: Path) -> None:
    """And nothing is overwritten: a key that is gone signs nothing more."""
    public, made = new_pair(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert public == tmp_path / "key.pub"
    assert public_key(public).id == Signer(tmp_path / "key").key_id == made
    for path in (tmp_path / "key", tmp_path / "key2"):
        (tmp_path / "key2.pub").touch()
        with pytest.raises(UsageError, match="is there already"):
            new_pair(path)
    with pytest.raises(UsageError, match="cannot be written"):
        new_pair(tmp_path / "none/key")


def _public() -> bytes:
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


NO_KEYS: dict[str, Callable[[], bytes]] = {
    "is empty": bytes,
    "is empty;": lambda: b" \n",
    "holds no private key": lambda: b"hello",
    "no text": lambda: b"\xff\xfe",
    "too large": lambda: b"x" * 100_000,
    "is encrypted": lambda: pem(Ed25519PrivateKey.generate(), b"secret"),
    "is no Ed25519 key": lambda: pem(ec.generate_private_key(ec.SECP256R1())),
    "holds no private key in PEM": lambda: pem(Ed25519PrivateKey.generate())[:60],
    "is a public key": _public,
}


@pytest.mark.parametrize("words", NO_KEYS)
def test_what_is_no_key_is_refused(tmp_path: Path, words: str) -> None:
    """In words that name the file, and do not repeat what is in it."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(NO_KEYS[words]())
    with pytest.raises(UsageError, match=words) as refusal:
        private_key(path)
    assert str(path) in str(refusal.value)
    assert "PRIVATE" not in str(refusal.value)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Its group may read it: so mounted secrets come; nobody else, and nobody may change it."""
    new_pair(tmp_path / "key")
    os.chmod(tmp_path / "key", 0o640)
    private_key(tmp_path / "key")
    os.chmod(tmp_path / "key", mode)
    with pytest.raises(UsageError, match="by others"):
        private_key(tmp_path / "key")


def test_no_file_is_waited_for(tmp_path: Path) -> None:
    """A FIFO, a directory, a device, nothing at all."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero"), tmp_path / "none"):
        with pytest.raises(UsageError, match="name a file with a key"):
            private_key(path)


def test_openssl_makes_keys_too(tmp_path: Path, fleet: Fleet) -> None:
    """A key is what every tool takes for one: nothing about the files is of our making."""
    key = tmp_path / "made"
    for command in (
        f"genpkey -algorithm ed25519 -out {key}",
        f"pkey -in {key} -pubout -out {key}.pub",
    ):
        subprocess.run(["openssl", *command.split()], check=True)
    key.chmod(0o600)
    fleet.say("made", (tmp_path / "made.pub").read_text())
    fleet.later()
    fleet.trust.check(STREAM, at(0), signed(Signer(key), 1)[0])
    assert key_id(private_key(key).public_key().public_bytes_raw()) in fleet.trust.names
