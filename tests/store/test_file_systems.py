"""The file backend on file systems of its own: ext4, XFS, btrfs in images, and two mounts of NFS.

Images want root, loop devices, the file system in the kernel, and its mkfs. NFS wants two mounts of
one export, named by SIDECAR_TEST_NFS=/mnt/one:/mnt/two.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from store import Retention, checksum_of
from store.file.backend import FileStore
from tests.servers import PATIENCE_S
from tests.store import test_conformance

pytestmark = pytest.mark.slow

MKFS: Final = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
IMAGE_BYTES: Final = 512 << 20  # XFS wants 300 MiB
SHUT_DOWN: Final = 0x8004587D
"""The ioctl GOINGDOWN, of XFS and ext4: nothing is written any more, as if power were cut."""
WITHOUT_FLUSH: Final = struct.pack("I", 2)
WRITER: Final = """
import itertools, sys
from store.file.backend import FileStore
opened = FileStore(sys.argv[1])
for i in itertools.count():
    data = b"%d " % i * (1 if i % 3 else 40_000)
    opened.put(f"moving/{i % 5}", data, b"m", position=(1, i))
    opened.put(f"new/{i}", data, b"m")
    print(i, flush=True)
"""


class Image:
    """A file system in an image, mounted; not below pytest's directories, which others clean up."""

    def __init__(self, kind: str) -> None:
        self.kind, self.root = kind, Path(tempfile.mkdtemp(prefix="sidecar-mount-"))
        with tempfile.NamedTemporaryFile(prefix="sidecar-image-") as file:  # the device keeps it
            file.truncate(IMAGE_BYTES)
            run(*MKFS[kind], file.name)
            self._device = run("losetup", "--find", "--show", file.name)
        try:
            self.mount()
        except subprocess.CalledProcessError:
            self.close()
            raise

    def mount(self) -> None:
        """Mount it, again after `unmount`."""
        run("mount", "-t", self.kind, self._device, str(self.root))

    def unmount(self) -> None:
        """Let go of it."""
        run("umount", str(self.root))

    def cut_power(self) -> None:
        """Have it write nothing more, not even what waits. Raises `OSError` where it cannot."""
        root = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(root, SHUT_DOWN, WITHOUT_FLUSH)
        finally:
            os.close(root)

    def close(self) -> None:
        """Remove it, once nothing is open there any more."""
        with suppress(subprocess.CalledProcessError):
            run("umount", "--lazy", str(self.root))
        run("losetup", "--detach", self._device)
        self.root.rmdir()


def run(*command: str) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextmanager
def mounted(kind: str) -> Iterator[Image]:
    """Make and mount a file system of a kind; skip the test where this machine does not let us."""
    if os.geteuid() or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and loop devices")
    if shutil.which(MKFS[kind][0]) is None:
        pytest.skip(f"{MKFS[kind][0]} is not installed")
    try:
        image = Image(kind)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot mount {kind} here: {error.stderr.strip()}")
    try:
        yield image
    finally:
        image.close()


@pytest.fixture(scope="module", params=sorted(MKFS))
def image(request: pytest.FixtureRequest) -> Iterator[Image]:
    """An empty file system of each kind."""
    with mounted(request.param) as image:
        yield image


class TestOnFileSystem(test_conformance.TestFile):
    """The whole exported suite."""

    @pytest.fixture
    def tmp_path(self, image: Image) -> Path:
        """A directory there."""
        directory = image.root / uuid.uuid4().hex
        directory.mkdir()
        return directory


@pytest.mark.parametrize("kind", sorted(MKFS))
def test_a_power_cut_loses_nothing_that_was_acknowledged(kind: str) -> None:
    """After a cut in the middle of writing each put that returned is there, whole."""
    with mounted(kind) as image:
        _cut_and_look(image)


def _cut_and_look(image: Image) -> None:
    root = image.root / uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout
        acknowledged = [int(process.stdout.readline()) for _ in range(60)]
        try:
            image.cut_power()
        except OSError as error:
            process.kill()
            pytest.skip(f"{image.kind} knows no cut here: {error}")
        acknowledged += map(int, process.stdout)
    image.unmount()
    image.mount()
    opened = FileStore(str(root))
    for i in acknowledged:
        data = b"%d " % i * (1 if i % 3 else 40_000)
        assert opened.get(f"new/{i}") == (data, b"m")
        assert opened.get(f"moving/{i % 5}", checksum=checksum_of(data)).data == data
    for i in acknowledged[-5:]:  # what was not acknowledged may have moved on
        assert int(opened.get(f"moving/{i % 5}").data.split()[0]) >= i
    assert not [each for each in opened.verify() if each.error]
    opened.put("after", b"data", b"m")
    assert opened.get("after") == (b"data", b"m")


# NFS: two clients of one server.


@pytest.fixture
def two() -> tuple[FileStore, FileStore]:
    """One store, opened by each of two mounts."""
    mounts = os.environ.get("_SIDECAR_TEST_NFS", "").split(":")
    if len(mounts) != 2:
        pytest.skip("needs two mounts of one export: SIDECAR_TEST_NFS=/mnt/one:/mnt/two")
    name = uuid.uuid4().hex
    one, other = (FileStore(f"{mount}/{name}") for mount in mounts)
    return one, other


def test_what_one_mount_puts_the_other_has(two: tuple[FileStore, FileStore]) -> None:
    """A ref that moves at one mount has moved at the other: with actimeo=0."""
    one, other = two
    for i in range(20):
        writer, reader = (one, other) if i % 2 else (other, one)
        data = b"%d" % i * (1 if i % 3 else 40_000)
        writer.put("a/ref", data, b"m", position=(1, i))
        assert reader.get("a/ref") == (data, b"m")
        assert reader.get("a/ref", checksum=checksum_of(b"0" * 40_000)).manifest == b"m"


def test_writers_at_two_mounts_lose_nothing(two: tuple[FileStore, FileStore]) -> None:
    """Of writers at both mounts the last position wins, no version is lost, and gc keeps to it."""
    together = threading.Barrier(2, timeout=PATIENCE_S)

    def write(number: int) -> None:
        for i in range(30):
            together.wait()
            two[number].put("one/ref", b"%d-%d" % (i, number), b"m", position=(i, number))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    for opened in two:
        assert opened.get("one/ref") == (b"29-1", b"m")
        assert len(list(opened.versions("one/ref"))) == 60
        assert not [each for each in opened.verify() if each.error]
    assert len(list(two[0].collect(Retention(0.0), lambda: ()))) == 59
    assert two[1].get("one/ref") == (b"29-1", b"m")
