"""The chassis-file backend: the Go side's layout, its refusals, and reads beside other writers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import store
from store import (
    ChecksumMismatch,
    ConfigError,
    Corrupt,
    InvalidRef,
    NotFound,
    StoreError,
    Unavailable,
)
from store.chassis import ChassisStore, looking
from store.chassis.layout import ATTRIBUTE
from store.posix import wait_for_lock
from store.testing import (
    DeleteConformance,
    LimitConformance,
    OutageConformance,
    PurgeConformance,
    StoreConformance,
    StreamConformance,
)
from store.testing.samples import NEIGHBOURS
from tests.store.harness import open_below, raw_files
from tests.store.racing import RACE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from store import VersionedStore

REF = "stacks/t_1/web/42"
MANIFEST = ".manifest.json"

NAMES = {
    "stacks/t_123/web/42": "stacks/t_123/web/42",
    "A.b-c_D/9": "A.b-c_D/9",
    ".tmp/.hidden": ".tmp/.hidden",
    "a b": "a_b",
    "a:b*c?d\\e": "a_b_c_d_e",
    "é": "_",
    "e\u0301": "e_",
    "\N{GRINNING FACE}/x": "_/x",
    ".../....": "_.../_....",
    "...a": "...a",
    "~/$HOME/%41": "_/_HOME/_41",
    "@sidecar/tmp/x": "_sidecar/tmp/x",
    "\N{LINE SEPARATOR}": "_",
    "STORE": "STORE",
}
"""Where the Go side keeps the data of a ref."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def files(root: Path) -> ChassisStore:
    return ChassisStore(str(root))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what looks like a Put under way be judged sooner."""
    monkeypatch.setattr(looking, "_PATIENCE_S", 0.06)


@pytest.fixture
def without_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system keep no extended attributes."""
    monkeypatch.setattr(os, "setxattr", refuse_attributes)
    monkeypatch.setattr(os, "getxattr", refuse_attributes)


def go_put(root: Path, path: str, data: bytes, manifest: bytes) -> None:
    """Write a pair as the Go side does: manifest first, each by a file beside and a rename."""
    for name, blob in ((path + MANIFEST, manifest), (path, data)):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(".tmp-4242")
        temporary.write_bytes(blob)
        temporary.rename(target)


def tree(root: Path) -> dict[str, bytes]:
    """Return every file under the root but those in our own corner, by path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] != "@sidecar"
    }


class TestChassis(
    StoreConformance,
    StreamConformance,
    LimitConformance,
    DeleteConformance,
    PurgeConformance,
    OutageConformance,
):
    """The contract, as far as the layout can keep it."""

    refuses_collisions: ClassVar[bool] = True

    @pytest.fixture
    def store(self, tmp_path: Path) -> store.Store:
        """Open an empty directory."""
        self.root = tmp_path / "root"
        self.root.mkdir()
        return store.open("chassis-file", store.StoreConfig(file_dir=self.root))

    def raw(self, store: VersionedStore) -> bytes:  # noqa: ARG002 - the files are enough
        """Return the content of all files."""
        return raw_files(self.root)

    @contextlib.contextmanager
    def outage(self, store: VersionedStore) -> Iterator[None]:  # noqa: ARG002 - the root is enough
        """Move the root away."""
        away = self.root.with_name("away")
        self.root.rename(away)
        yield
        away.rename(self.root)


@pytest.mark.proof
@pytest.mark.usefixtures("without_attributes")
class TestChassisWithoutAttributes(TestChassis):
    """The same on a file system without extended attributes: more is refused, nothing is torn."""

    @pytest.mark.parametrize(
        "pair", [pair for pair in NEIGHBOURS if pair != ("a b", "a_b")], ids=ascii
    )
    def test_neighbours_never_meet(self, store: store.Store, pair: tuple[str, str]) -> None:
        """As above, but that the ref `a b` reads what lies at `a_b`: the Go side may mean that."""
        super().test_neighbours_never_meet(store, pair)


# The layout, without the package.


def test_golden_layout(root: Path, files: ChassisStore) -> None:
    """Data and manifest lie where the Go side looks, byte for byte, and nothing else does."""
    files.put("stacks/t_123/web/42", b"data\n", b'{"v":42}')
    files.put(".../a b", b"\x00\xff", b"")
    assert tree(root) == {
        "stacks/t_123/web/42": b"data\n",
        "stacks/t_123/web/42.manifest.json": b'{"v":42}',
        "_.../a_b": b"\x00\xff",
        "_.../a_b.manifest.json": b"",
    }
    assert sorted(os.listdir(root)) == ["@sidecar", "_...", "stacks"]
    assert os.listdir(root / "@sidecar/tmp") == []
    assert not (root / "stacks/t_123/web/42").stat().st_mode & 0o111


@pytest.mark.parametrize(("ref", "path"), NAMES.items(), ids=ascii)
def test_names(root: Path, files: ChassisStore, ref: str, path: str) -> None:
    """Every ref has the Go side's path, is written there, and found when that side wrote it."""
    go_put(root, path, b"from Go", b"m")
    assert files.exists(ref)
    assert files.get(ref) == (b"from Go", b"m")
    (root / path).unlink()
    (root / (path + MANIFEST)).unlink()
    files.put(ref, b"ours", b"n")
    assert tree(root) == {path: b"ours", path + MANIFEST: b"n"}


def test_reading_leaves_no_trace(root: Path, files: ChassisStore) -> None:
    """A store that is only read is not written to: a read-only mount serves as source."""
    go_put(root, REF, b"data", b"m")
    files.get(REF)
    assert files.exists(REF)
    assert not files.exists("other")
    with files.open(REF) as reader:
        assert reader.read() == b"data"
    assert os.listdir(root) == ["stacks"]


@pytest.mark.parametrize("segment", ["s" * 241, "é" * 120, "." * 240])
def test_longest_names(files: ChassisStore, root: Path, segment: str) -> None:
    """What leaves room for the manifest's ending in 255 bytes can be held."""
    files.put(f"{'d' * 255}/{segment}", b"data", b"m")
    assert files.get(f"{'d' * 255}/{segment}") == (b"data", b"m")
    assert len(tree(root)) == 2


@pytest.mark.parametrize("ref", ["s" * 242, "." * 241, "." * 255 + "/a", "a/" + "s" * 255])
def test_too_long_names(files: ChassisStore, root: Path, ref: str) -> None:
    """A ref that cannot be held is refused for reading as well: trying again cannot help."""
    calls: list[Callable[[], object]] = [
        lambda: files.put(ref, b"", b""),
        lambda: files.get(ref),
        lambda: files.exists(ref),
        lambda: files.open(ref),
    ]
    for call in calls:
        with pytest.raises(InvalidRef, match=r"fit there; shorten it"):
            call()
    assert os.listdir(root) == []


# Opening.


def test_opening_by_url(root: Path) -> None:
    """The URL names the directory, and two handles on it are one storage."""
    go_put(root, "a", b"1", b"2")
    opened = store.open_url(f"chassis-file://{root}")
    assert opened.get("a") == (b"1", b"2")
    assert opened.name == "chassis-file"
    assert getattr(opened, "location", None) == ChassisStore(str(root)).location
    wanted = {store.Capability(one) for one in ("stream", "limit", "delete", "purge")}
    assert store.capabilities(opened) == wanted


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    """A wrong path is refused and not made: it would look like a store that lost everything."""
    with pytest.raises(ConfigError, match="is not there: name the directory that the Go side"):
        ChassisStore(str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no directory"):
        ChassisStore(str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="needs a directory"):
        store.open("chassis-file")


def test_a_root_of_the_file_backend(tmp_path: Path) -> None:
    """A store of the file backend is refused, an artifact called STORE is none."""
    store.open("file", store.StoreConfig(file_dir=tmp_path / "files"))
    with pytest.raises(ConfigError, match="file backend"):
        ChassisStore(str(tmp_path / "files"))
    (tmp_path / "go").mkdir()
    go_put(tmp_path / "go", "STORE", b"artifacts", b"m")
    assert ChassisStore(str(tmp_path / "go")).get("STORE").data == b"artifacts"


def test_leftovers_are_swept(root: Path, files: ChassisStore) -> None:
    """What a crashed writer left a day ago goes at the next opening, what is fresh stays."""
    files.put("a", b"", b"")
    for name, age_s in (("old", 90_000), ("young", 10)):
        path = root / "@sidecar/tmp" / name
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    ChassisStore(str(root))
    assert os.listdir(root / "@sidecar/tmp") == ["young"]


# Collisions.


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("a b", "a_b", "is the data of ref 'a b'"),
        ("a_b", "a b", "is the data of ref 'a_b'"),
        ("a b", "a*b", "is the data of ref 'a b'"),
        ("...", "_...", "is the data of ref '...'"),
        ("é/x", "_/x", "is the data of ref"),
        ("x", "x.manifest.json", "is the manifest of x"),
        ("x.manifest.json/y", "x", "is a directory, of refs below it"),
        ("x", "x.manifest.json/y", "is a file, of the ref that ends there"),
        ("a", "a/b", "is a file, of the ref that ends there"),
        ("a", "a/b/c/d", "is a file, of the ref that ends there"),
        ("a/b", "a", "is a directory, of refs below it"),
    ],
    ids=ascii,
)
def test_collisions_are_refused(
    root: Path, files: ChassisStore, first: str, second: str, words: str
) -> None:
    """The second of two refs that would meet is refused in words; the first stays as it was."""
    files.put(first, b"first", b"m")
    before = tree(root)
    assert not files.exists(second)
    with pytest.raises(NotFound):
        files.get(second)
    for again in range(2):
        with pytest.raises(InvalidRef, match=words):
            files.put(second, b"second", b"n")
        assert tree(root) == before, again
    assert files.get(first) == (b"first", b"m")
    assert os.listdir(root / "@sidecar/tmp") == []


def test_collisions_with_what_go_wrote(root: Path, files: ChassisStore) -> None:
    """A file without a mark is that of the ref that its name spells: no other may replace it."""
    go_put(root, "a_b", b"1", b"m")
    with pytest.raises(InvalidRef, match="without a mark that says whose"):
        files.put("a b", b"2", b"n")
    assert files.get("a b") == (b"1", b"m")
    files.put("a_b", b"3", b"o")
    assert files.get("a_b") == (b"3", b"o")
    assert not files.exists("a b")


def test_refs_that_go_let_collide(root: Path, files: ChassisStore) -> None:
    """A file that is one ref's manifest and another's data belongs to neither any more."""
    go_put(root, "x", b"x", b"manifest of x")
    assert not files.exists("x.manifest.json")
    go_put(root, "x.manifest.json", b"data", b"m")
    for ref in ("x", "x.manifest.json"):
        with pytest.raises(Corrupt, match="mixed up with another ref"):
            files.get(ref)
    with pytest.raises(InvalidRef, match="its manifest would lie where"):
        files.put("x", b"", b"")
    go_put(root, "y.manifest.json", b"data", b"m")
    assert files.get("y.manifest.json") == (b"data", b"m")


def test_a_racing_directory(
    root: Path, files: ChassisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory made between the check and the rename is a collision, and leaves no manifest."""
    rename = os.rename

    def racing(old: str, new: str, **fds: int) -> None:
        (root / "a").mkdir(exist_ok=True)
        rename(old, new, **fds)

    monkeypatch.setattr(os, "rename", racing)
    with pytest.raises(InvalidRef, match="is a directory"):
        files.put("a", b"", b"")
    assert tree(root) == {}


@pytest.mark.usefixtures("without_attributes")
def test_without_attributes(root: Path, files: ChassisStore) -> None:
    """Where nothing can be marked, refs that their path does not spell are read, but not put."""
    files.put("a_b", b"1", b"m")
    assert files.get("a_b") == (b"1", b"m")
    before = tree(root)
    with pytest.raises(InvalidRef, match="keeps no extended attributes"):
        files.put("c d", b"2", b"n")
    assert tree(root) == before
    go_put(root, "c_d", b"3", b"o")
    assert files.get("c d") == (b"3", b"o")


def test_our_mark_on_what_go_rewrote_in_place(root: Path, files: ChassisStore) -> None:
    """A mark counts for the content that it was made for: it does not outlive a rewrite."""
    files.put("a b", b"ours", b"m")
    for name, blob in (("a_b.manifest.json", b"Go's"), ("a_b", b"data")):
        (root / name).write_bytes(blob)
    assert os.getxattr(root / "a_b", ATTRIBUTE)
    assert files.get("a_b") == (b"data", b"Go's")
    assert files.get("a b") == (b"data", b"Go's")


@pytest.mark.parametrize("mark", [b"", b"artifact 1\n", b"\xff" * 100, b"artifact 2\ndata\n1 1\n"])
def test_foreign_marks(root: Path, files: ChassisStore, mark: bytes) -> None:
    """An attribute that is none of ours says nothing."""
    go_put(root, "a", b"1", b"m")
    os.setxattr(root / "a", ATTRIBUTE, mark)
    assert files.get("a") == (b"1", b"m")


# Links and special files.


@pytest.mark.parametrize("place", ["stacks", "stacks/t_1", "stacks/t_1/web"])
def test_linked_directories_are_not_followed(
    root: Path, files: ChassisStore, tmp_path: Path, place: str
) -> None:
    """A link in the way is damage, and nothing is read or written behind it."""
    (tmp_path / "elsewhere").mkdir()
    rest = Path(REF).relative_to(place)
    go_put(tmp_path / "elsewhere", str(rest), b"secret", b"m")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path / "elsewhere")
    for call in (lambda: files.get(REF), lambda: files.exists(REF), lambda: files.open(REF)):
        with pytest.raises(Corrupt, match="links are not followed"):
            call()
    with pytest.raises(Corrupt, match="links are not followed"):
        files.put(REF, b"new", b"n")
    assert tree(tmp_path / "elsewhere") == before


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [link, os.mkfifo], ids=["link", "fifo"])
@pytest.mark.parametrize("ending", ["", MANIFEST])
def test_neither_links_nor_special_files(
    root: Path, files: ChassisStore, make: Callable[[Path], None], ending: str
) -> None:
    """A link or a FIFO in a file's place is told as damage, and left where it is."""
    go_put(root, "a", b"1", b"m")
    (root / f"a{ending}").unlink()
    make(root / f"a{ending}")
    for call in (lambda: files.get("a"), lambda: files.exists("a")):
        with pytest.raises(Corrupt, match="link, or of the wrong kind"):
            call()
    with pytest.raises(Corrupt, match="link, or of the wrong kind"):
        files.put("a", b"2", b"n")
    assert not (root / f"a{ending}").is_file() or (root / f"a{ending}").is_symlink()


@pytest.mark.parametrize("place", ["@sidecar", "@sidecar/tmp", "@sidecar/locks"])
def test_our_corner_is_not_led_astray(
    root: Path, files: ChassisStore, tmp_path: Path, place: str
) -> None:
    """A link in our own corner is not followed either."""
    (tmp_path / "elsewhere").mkdir()
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Corrupt, match="links are not followed"):
        files.put("a", b"1", b"m")
    assert os.listdir(tmp_path / "elsewhere") == []


# Half pairs, mixtures and damage.


@pytest.mark.usefixtures("impatient")
def test_a_manifest_alone_is_absence(root: Path, files: ChassisStore) -> None:
    """Data is what makes an artifact present: a manifest alone is a first Put cut short."""
    (root / "a.manifest.json").write_bytes(b"m")
    assert not files.exists("a")
    with pytest.raises(NotFound, match="nothing at ref 'a' but a manifest"):
        files.get("a")
    files.put("a", b"1", b"n")
    assert files.get("a") == (b"1", b"n")


@pytest.mark.usefixtures("impatient")
def test_data_alone_is_corrupt(root: Path, files: ChassisStore) -> None:
    """Data without a manifest is half a pair, not absence; the next Put fixes it."""
    (root / "a").write_bytes(b"1")
    for call in (lambda: files.get("a"), lambda: files.exists("a"), lambda: files.open("a")):
        with pytest.raises(Corrupt, match="half a pair"):
            call()
    files.put("a", b"1", b"n")
    assert files.get("a") == (b"1", b"n")


@pytest.mark.parametrize("first", ["a", "a.manifest.json"])
def test_a_put_under_way_is_waited_for(
    root: Path, files: ChassisStore, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """A Go Put that has written one of both is given the time to write the other, whichever."""
    blobs = {"a": b"data", "a.manifest.json": b"m"}
    (root / first).write_bytes(blobs.pop(first))
    sleep = time.sleep

    def finish(delay_s: float) -> None:
        for name, blob in blobs.items():
            (root / name).write_bytes(blob)
        blobs.clear()
        sleep(delay_s)

    monkeypatch.setattr(time, "sleep", finish)
    assert files.get("a") == (b"data", b"m")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["a", "a.manifest.json"])
@pytest.mark.parametrize("how", ["in place", "renamed"])
def test_a_pair_of_two_puts(root: Path, files: ChassisStore, name: str, how: str) -> None:
    """A foreign Put that replaced one file of ours and died is no pair, whichever it was."""
    files.put("a", b"1", b"m")
    if how == "renamed":
        (root / "new").write_bytes(b"foreign")
        (root / "new").rename(root / name)
    else:
        (root / name).write_bytes(b"foreign")
    with pytest.raises(Corrupt, match="of two Puts"):
        files.get("a")
    files.put("a", b"2", b"n")
    assert files.get("a") == (b"2", b"n")


@pytest.mark.parametrize("name", ["a", "a.manifest.json"])
def test_damage_of_what_we_wrote(root: Path, files: ChassisStore, name: str) -> None:
    """A flipped bit in a file of ours is found; what the Go side wrote cannot be checked."""
    files.put("a", b"data", b"data")
    found = (root / name).stat()
    (root / name).write_bytes(b"dbta")
    os.utime(root / name, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(Corrupt, match="fails the checksum"):
        files.get("a")
    with pytest.raises(Corrupt, match="fails"), files.open("a") as reader:
        reader.read()


def test_what_go_wrote_has_no_checksum(root: Path, files: ChassisStore) -> None:
    """An open artifact of the Go side tells no checksum; one of ours does."""
    go_put(root, "go", b"data", b"m")
    files.put("ours", b"data", b"m")
    with files.open("go") as reader:
        assert reader.checksum is None
        assert (reader.read(), reader.manifest, reader.size_bytes) == (b"data", b"m", 4)
    with files.open("ours") as reader:
        assert reader.checksum == store.checksum_of(b"data")


# Crashes.

_KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from store.chassis import ChassisStore
files = ChassisStore(sys.argv[2])
rename, left = os.rename, [int(sys.argv[3])]
def dying(*args, **fds):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    rename(*args, **fds)
os.rename = dying
files.put("a b", b"new", b"new manifest")
"""


def killed_put(root: Path, renames: int) -> None:
    """Put new content at `a b` in a process that dies after so many renames."""
    source = Path(store.__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, str(source), str(root), str(renames)], check=False
    )
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("renames", [0, 1])
def test_killed_during_a_first_put(root: Path, files: ChassisStore, renames: int) -> None:
    """A first Put that is killed leaves absence, to us and to the Go side, and can be repeated."""
    killed_put(root, renames)
    assert tree(root) == ({"a_b.manifest.json": b"new manifest"} if renames else {})
    assert not files.exists("a b")
    with pytest.raises(NotFound):
        files.get("a b")
    files.put("a b", b"new", b"new manifest")
    assert files.get("a b") == (b"new", b"new manifest")


@pytest.mark.usefixtures("impatient")
def test_killed_while_rewriting(root: Path, files: ChassisStore) -> None:
    """A rewrite that is killed leaves the old pair, or a mixture that is told as `Corrupt`."""
    files.put("a b", b"old", b"old manifest")
    killed_put(root, 0)
    assert files.get("a b") == (b"old", b"old manifest")
    killed_put(root, 1)
    assert tree(root) == {"a_b": b"new", "a_b.manifest.json": b"old manifest"}
    for call in (lambda: files.get("a b"), lambda: files.open("a b")):
        with pytest.raises(Corrupt, match="of two Puts"):
            call()
    files.put("a b", b"new", b"new manifest")
    assert files.get("a b") == (b"new", b"new manifest")


@pytest.mark.usefixtures("impatient")
def test_killed_while_putting_the_same(root: Path, files: ChassisStore) -> None:
    """Putting identical content again shows no mixture, wherever it is killed."""
    files.put("a b", b"new", b"new manifest")
    killed_put(root, 1)
    assert files.get("a b") == (b"new", b"new manifest")


def test_flushed_before_it_is_named(
    root: Path, files: ChassisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files are flushed with their marks before either has its name, then the directories."""
    done: list[str] = []
    fsync, rename, setxattr = os.fsync, os.rename, os.setxattr

    def name_of(fd: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if not path.is_relative_to(root):
            return "above"
        path = path.relative_to(root)
        return (
            "temporary" if path.parts[:2] == ("@sidecar", "tmp") and path.parts[2:] else f"{path}"
        )

    def flushing(fd: int) -> None:
        done.append(f"flush {name_of(fd)}")
        fsync(fd)

    def naming(old: str, new: str, **fds: int) -> None:
        done.append(f"name {new}")
        rename(old, new, **fds)

    def marking(fd: int, *args: Any) -> None:
        done.append("mark")
        setxattr(fd, *args)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "rename", naming)
    monkeypatch.setattr(os, "setxattr", marking)
    ours = [".", "@sidecar", "above"]
    files.put("d/e/a", b"1", b"m")
    relevant = [each for each in done if each.removeprefix("flush ") not in ours]
    assert relevant == [
        "mark", "flush temporary", "mark", "flush temporary", "flush d",
        "name a.manifest.json", "name a", "flush d/e",
    ]  # fmt: skip
    assert done.index("flush .") < done.index("name a.manifest.json")
    done.clear()
    files.put("d/e/a", b"2", b"n")
    assert done[4:] == ["name a", "name a.manifest.json", "flush d/e"]


def test_directories_of_others_are_flushed(
    root: Path, files: ChassisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that was there is flushed as well: whoever made it may not have come so far."""
    (root / "d").mkdir()
    flushed: list[Path] = []
    fsync = os.fsync

    def flushing(fd: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    files.put("other", b"", b"")
    monkeypatch.setattr(os, "fsync", flushing)
    files.put("d/a", b"", b"")
    assert root in flushed


# Outages, in words.


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("writev", errno.ENOSPC, "free space"),
        ("writev", errno.EDQUOT, "raise the quota"),
        ("writev", errno.EIO, "kernel's log"),
        ("fsync", errno.EIO, "kernel's log"),
        ("mkdir", errno.EROFS, "mounted read-only"),
        ("rename", errno.EACCES, "let this process's user"),
        ("setxattr", errno.ENOSPC, "free space"),
    ],
)
def test_failing_writes(
    root: Path,
    files: ChassisStore,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
    words: str,
) -> None:
    """A disk that is full, broken or read-only is an outage with its fix, and leaves nothing."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(Unavailable, match=words):
            files.put("d/a", b"1", b"m")
    assert tree(root) == {}
    own = root / "@sidecar/tmp"
    assert not own.exists() or os.listdir(own) == []
    assert not files.exists("d/a")
    files.put("d/a", b"1", b"m")
    assert files.get("d/a") == (b"1", b"m")


def test_unreadable_is_no_absence(
    root: Path, files: ChassisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Go side's files are its user's alone: being refused them is an outage with its fix."""
    go_put(root, "a", b"1", b"m")
    real = os.open

    def refusing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "a":
            raise PermissionError(errno.EACCES, "denied", path)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
    for call in (lambda: files.get("a"), lambda: files.exists("a")):
        with pytest.raises(Unavailable, match="let this process's user read"):
            call()


def test_a_replaced_root_is_no_absence(root: Path, files: ChassisStore) -> None:
    """Another directory at the root's path is an outage: a mount came or went."""
    go_put(root, "a", b"1", b"m")
    root.rename(root.with_name("away"))
    root.mkdir()
    calls: list[Callable[[], object]] = [
        lambda: files.get("a"),
        lambda: files.exists("a"),
        lambda: files.put("a", b"", b""),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="another directory"):
            call()
    root.rmdir()
    for call in calls:
        with pytest.raises(Unavailable, match="mount or restore"):
            call()


def test_a_stopped_lock_holder(root: Path) -> None:
    """A writer that was stopped with the lock in hand is told, by readers and writers."""
    files = ChassisStore(str(root), timeout_s=0.05)
    files.put("a", b"1", b"m")
    (name,) = os.listdir(root / "@sidecar/locks")
    with (root / "@sidecar/locks" / name).open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for call in (lambda: files.get("a"), lambda: files.put("a", b"2", b"m")):
            with pytest.raises(Unavailable, match="is it stopped"):
                call()
    assert files.get("a") == (b"1", b"m")


def test_no_descriptor_leaks(root: Path, files: ChassisStore) -> None:
    """Nothing stays open, whatever an operation ended with."""
    go_put(root, "go", b"1", b"m")
    files.put("a", b"1", b"m")
    link(root / "link")

    def everything() -> None:
        files.put("a", b"2", b"m")
        files.get("a")
        files.get("go")
        files.open("a").close()
        assert not files.exists("nothing/here")
        for ref in ("link", "a/b", "link/x"):
            with pytest.raises(StoreError):
                files.put(ref, b"", b"")
            with contextlib.suppress(StoreError):
                files.get(ref)
        with pytest.raises(ChecksumMismatch):
            files.put_from("a", io.BytesIO(b"x"), b"", checksum="sha256:" + "0" * 64)

    everything()
    gc.collect()
    before = open_below(root)
    for _ in range(5):
        everything()
    assert open_below(root) == before


# Streams.


class Zeros:
    """So many zeros, without holding them."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes

    def read(self, size: int, /) -> bytes:
        """Return up to `size` of them."""
        size = min(size, self._left)
        self._left -= size
        return bytes(size)


def test_streams_in_constant_memory(files: ChassisStore) -> None:
    """64 MiB go in and out within a few MiB of memory."""
    size_bytes = 64 << 20
    tracemalloc.start()
    try:
        checksum = files.put_from("a", Zeros(size_bytes), b"m")
        with files.open("a") as reader:
            copied = files.put_from("b", reader, reader.manifest, checksum=checksum)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert copied == checksum
    assert peak < 8 << 20


def test_rewritten_in_place_under_a_reader(root: Path, files: ChassisStore) -> None:
    """Data that changes under an open reader is told at the end, never taken for whole."""
    data = os.urandom(3 << 20)
    go_put(root, "a", data, b"m")
    with files.open("a") as reader:
        assert reader.read(1000) == data[:1000]
        (root / "a").write_bytes(data[::-1])
        with pytest.raises(Unavailable, match="rewritten in place"):
            reader.read()


@pytest.mark.parametrize("call", ["get", "open"])
def test_rewritten_in_place_while_it_is_read(
    root: Path, files: ChassisStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A pair that changes between looking and reading is read again."""
    go_put(root, "a", b"old", b"old")
    pending = [True]
    content = looking.File.content

    def racing(file: looking.File) -> bytes:
        if pending and file.path.endswith(MANIFEST):
            pending.clear()
            (root / "a.manifest.json").write_bytes(b"new")
            (root / "a").write_bytes(b"new")
        return content(file)

    monkeypatch.setattr(looking.File, "content", racing)
    if call == "get":
        assert files.get("a") == (b"new", b"new")
    else:
        with files.open("a") as reader:
            assert (reader.read(), reader.manifest) == (b"new", b"new")
    assert not pending


# Beside other writers.


def test_what_we_wrote_is_believed_at_once(
    root: Path, files: ChassisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair of ours needs no waiting, a foreign one lies still for a moment first."""
    sleep, slept = time.sleep, []

    def counting(delay_s: float) -> None:
        slept.append(delay_s)
        sleep(delay_s)

    monkeypatch.setattr(time, "sleep", counting)
    files.put("a", b"1", b"m")
    files.get("a")
    assert not slept
    go_put(root, "a", b"2", b"n")
    assert files.get("a") == (b"2", b"n")
    assert slept
    deadline = time.monotonic() + 60
    while slept:  # once it is old enough
        assert time.monotonic() < deadline
        slept.clear()
        files.get("a")


def test_a_pair_that_never_rests(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair that is rewritten all the time is an outage, after the timeout."""
    files = ChassisStore(str(root), timeout_s=0.2)
    sleep, count = time.sleep, iter(range(1_000_000))

    def rewriting(delay_s: float) -> None:
        go_put(root, "a", b"%d" % next(count), b"m")
        sleep(delay_s)

    go_put(root, "a", b"", b"m")
    monkeypatch.setattr(time, "sleep", rewriting)
    for call in (lambda: files.get("a"), lambda: files.open("a")):
        with pytest.raises(Unavailable, match="keeps being rewritten"):
            call()
    assert files.exists("a")


def pair_of(number: int) -> tuple[bytes, bytes]:
    """Return a pair that tells whether it is whole; all have one size."""
    data = b"%08d" % number * 40_000
    return data, b"%08d" % number + hashlib.sha256(data).digest()


def is_pair(data: bytes, manifest: bytes) -> bool:
    return (data, manifest) == pair_of(int(manifest[:8] or b"0"))


def in_place(path: Path, blob: bytes) -> None:
    path.write_bytes(blob)


def renamed(path: Path, blob: bytes) -> None:
    temporary = path.with_name(f".tmp-{os.getpid()}")
    temporary.write_bytes(blob)
    temporary.rename(path)


def foreign_writer(root: Path, how: str, seconds: float) -> None:
    """Rewrite one pair at full speed, in bursts: between them it lies still for a moment.

    At the end it says how long the slowest Put took.
    """
    order = ("a.manifest.json", "a") if "manifest first" in how else ("a", "a.manifest.json")
    write = in_place if "in place" in how else renamed
    until = time.monotonic() + seconds
    number, slowest_s = 0, 0.0
    while time.monotonic() < until:
        for _ in range(20):
            number += 1
            data, manifest = pair_of(number)
            blobs = {"a": data, "a.manifest.json": manifest}
            started = time.monotonic()
            for name in order:
                write(root / name, blobs[name])
            slowest_s = max(slowest_s, time.monotonic() - started)
        time.sleep(0.15)
    (root / "slowest").write_text(str(slowest_s))


@pytest.mark.parametrize("how", ["in place", "renamed"])
@pytest.mark.parametrize("order", ["data first", "manifest first"])
def test_beside_a_foreign_writer(root: Path, how: str, order: str) -> None:
    """Whatever a foreign process does to a pair at full speed, a read is some pair or an error.

    But for a Put that stalls half-way for longer than we wait: that cannot be told.
    """
    go_put(root, "a", *pair_of(0))
    files = ChassisStore(str(root), timeout_s=5)
    writer = multiprocessing.get_context("spawn").Process(
        target=foreign_writer, args=(root, f"{how}, {order}", RACE_S)
    )
    writer.start()
    seen = []
    while writer.is_alive():
        with contextlib.suppress(Unavailable, Corrupt):
            seen.append(is_pair(*files.get("a")))
        with contextlib.suppress(Unavailable, Corrupt), files.open("a") as reader:
            seen.append(is_pair(reader.read(), reader.manifest))
    writer.join()
    assert writer.exitcode == 0
    slowest_s = float((root / "slowest").read_text())
    assert all(seen) or slowest_s > looking._SETTLED_S
    assert is_pair(*files.get("a"))


def refuse_attributes(*_: object) -> None:
    raise OSError(errno.ENOTSUP, "not supported")


def own_writer(root: Path, seconds: float, *, marks: bool) -> None:
    """Rewrite one pair at full speed through the backend."""
    if not marks:
        os.setxattr = refuse_attributes  # type: ignore[assignment]
        os.getxattr = refuse_attributes  # type: ignore[assignment]
    files = ChassisStore(str(root))
    until = time.monotonic() + seconds
    number = os.getpid() % 1000 * 1000
    while time.monotonic() < until:
        number += 1
        files.put("a", *pair_of(number))


@pytest.mark.parametrize("marks", [True, False])
def test_beside_our_own_writers(root: Path, request: pytest.FixtureRequest, marks: bool) -> None:
    """Processes that write through this backend never let a reader see a mixture, nor a gap."""
    if not marks:
        request.getfixturevalue("without_attributes")
    files = ChassisStore(str(root))
    files.put("a", *pair_of(0))
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=own_writer, args=(root, RACE_S), kwargs={"marks": marks})
        for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert is_pair(*files.get("a"))
        assert files.exists("a")
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert is_pair(*files.get("a"))


@pytest.mark.usefixtures("without_attributes")
def test_no_look_between_two_renames(files: ChassisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is marked, a reader waits for a writer that stands between both renames."""
    files.put("a", b"old", b"old")
    rename = os.rename
    waits = threading.Event()
    renames = []

    def waiting(fd: int, kind: int, path: str, timeout_s: float) -> None:
        if kind == fcntl.LOCK_SH:
            waits.set()
        wait_for_lock(fd, kind, path, timeout_s)

    with ThreadPoolExecutor(1) as pool:

        def pausing(old: str, new: str, **fds: int) -> None:
            renames.append(new)
            if len(renames) == 2:
                reading.append(pool.submit(files.get, "a"))
                assert waits.wait(60)
            rename(old, new, **fds)

        reading: list[Future[store.Artifact]] = []
        monkeypatch.setattr(os, "rename", pausing)
        monkeypatch.setattr("store.chassis.backend.wait_for_lock", waiting)
        files.put("a", b"new", b"new")
        assert reading[0].result() == (b"new", b"new")


@pytest.mark.parametrize(("first", "last"), [("a.manifest.json", "a"), ("a", "a.manifest.json")])
def test_files_written_far_apart_are_doubted(
    root: Path, files: ChassisStore, monkeypatch: pytest.MonkeyPatch, first: str, last: str
) -> None:
    """One fresh file beside an old one may be half of a Put: the other half gets its time."""
    go_put(root, "a", b"old", b"old")
    os.utime(root / last, (1, 1))
    renamed(root / first, b"new")
    sleep, sleeps = time.sleep, list[float]()

    def writing(delay_s: float) -> None:
        sleeps.append(delay_s)
        if len(sleeps) == 2:
            renamed(root / last, b"new")
        sleep(2 * looking._SETTLED_S)

    monkeypatch.setattr(time, "sleep", writing)
    assert files.get("a") == (b"new", b"new")


def test_a_manifest_that_is_being_cut(
    root: Path, files: ChassisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that looks empty is watched, however old: its times may change only later."""
    go_put(root, "a", b"data", b"")
    fstat, sleep, slept = os.fstat, time.sleep, list[float]()

    def aged(fd: int) -> os.stat_result:
        found = fstat(fd)
        fields = list(found)
        return os.stat_result(fields, {"st_ctime": 0.0, "st_mtime_ns": 0, "st_ctime_ns": 0})

    def finishing(delay_s: float) -> None:
        slept.append(delay_s)
        (root / "a.manifest.json").write_bytes(b"m")
        sleep(delay_s)

    monkeypatch.setattr(os, "fstat", aged)
    monkeypatch.setattr(time, "sleep", finishing)
    assert files.get("a") == (b"data", b"m")
    assert slept


def test_copied_trees_are_read(root: Path, files: ChassisStore, tmp_path: Path) -> None:
    """A copy that lost the marks, or the times, is read as what the Go side wrote."""
    files.put("a b", b"1", b"m")
    copies: list[tuple[str, Callable[[str, str], object]]] = [
        ("times", shutil.copy2),
        ("nothing", shutil.copyfile),
    ]
    for kept, copy in copies:
        shutil.copytree(root, tmp_path / kept, copy_function=copy)
        assert ChassisStore(str(tmp_path / kept)).get("a b") == (b"1", b"m")
