"""Bundles that somebody made to harm who opens them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from sidecar.history.members import INDEX, PINS, RATIO, SLACK_BYTES, WAITING
from sidecar.redis.keys import Keys
from sidecar.wire.ids import HIGHEST
from tests.cli.harness import Cli
from tests.proofs import sampled
from tests.servers import PATIENCE_S, Server
from tests.sidecar.harness import CONTROL, NOTIFICATIONS, Rig

SEGMENT: Final = "streams/1/000000.jsonl"
COMMANDS: Final = [
    ("replay", "show", "--resolve"), ("replay", "at", "0s"), ("trace", "a"), ("dead", "ls"),
    ("replay", "report", "{}/report.html"), ("replay", "export", "{}/again.zip"),
]  # fmt: skip


BOMBS = [b"\n", b"[[],[]]\n", b'["a","1-1"]\n']


@pytest.fixture(scope="module")
def _made(redis_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, made once: who reads one asks no server."""
    path = tmp_path_factory.mktemp("made") / "bundle"
    with redis.Redis.from_url(redis_server.url, protocol=2, socket_timeout=PATIENCE_S) as client:
        client.flushall()
        rig, sidecar = Rig(redis_server.url, client), Cli(redis_server.url, path.parent, client)
        rig.emit("a")
        rig.add("{")
        rig.drain()
        rig.emit("waits")
        sidecar.lay_out()
        ran = sidecar("replay", "export", path)
    assert ran.code == 0, ran.err
    return path


@pytest.fixture
def bundle(_made: Path, sidecar: Cli) -> Path:
    """A bundle of the test's own, as a directory."""
    sidecar.lay_out()
    return Path(shutil.copytree(_made, sidecar.directory / "bundle"))


@pytest.fixture
def rig(redis_url: str, client: Any) -> Rig:
    """A relay on the real, empty server."""
    return Rig(redis_url, client)


def opened(sidecar: Cli, path: Path, command: tuple[str, ...] = COMMANDS[0]) -> str:
    """Run a command on the bundle; it must refuse. Return its words."""
    words = [word.format(sidecar.directory) for word in command]
    ran = sidecar(*words, "--bundle", path, env={"SIDECAR_REDIS": ""})
    assert ran.code in (1, 2), (ran.code, ran.err)
    assert "Traceback" not in ran.err
    return ran.err


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the index, and give it the checksum that it then has."""
    index = json.loads((bundle / INDEX).read_bytes())["index"]
    change(index)
    body = json.dumps(index, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    sealed = {"format": 1, "sha256": hashlib.sha256(body).hexdigest(), "index": index}
    (bundle / INDEX).write_text(json.dumps(sealed))


def write(bundle: Path, name: str, raw: bytes, rows: int | None = None) -> None:
    """Change a file, and what the index says of it."""
    (bundle / name).write_bytes(raw)

    def known(index: dict[str, Any]) -> None:
        for member in members(index):
            if member["name"] == name:
                member["sha256"] = hashlib.sha256(raw).hexdigest()
                member["count"] = member["count"] if rows is None else rows

    edit(bundle, known)


def members(index: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the index says of files."""
    yield index["waiting"]
    if index["pins"]:
        yield index["pins"]
    for stream in index["streams"]:
        yield from stream["segments"]


def zipped(bundle: Path) -> Path:
    """Return the bundle as a zip file."""
    path = bundle.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for one in sorted(bundle.rglob("*")):
            if one.is_file():
                file.write(one, one.relative_to(bundle))
    return path


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "streams/../../secret", "a", "\0"])
def test_a_name_leads_nowhere_else(sidecar: Cli, bundle: Path, name: str) -> None:
    """An index cannot have a file read that is not of a bundle's layout."""
    (sidecar.directory / "secret").write_text("[]\n")
    edit(bundle, lambda index: index["waiting"].update(name=name))
    assert "BUNDLE.json" in opened(sidecar, bundle)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [INDEX, WAITING, SEGMENT])
def test_what_is_no_plain_file_is_not_opened(sidecar: Cli, bundle: Path, name: str) -> None:
    """A FIFO in a bundle does not hang its reader, and a link to a directory is not followed."""
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    assert name in opened(sidecar, bundle)
    (bundle / name).unlink()
    (bundle / name).symlink_to(sidecar.directory)
    assert name in opened(sidecar, bundle)


@pytest.mark.timeout(60)
def test_what_is_no_bundle_at_all_is_not_opened(sidecar: Cli, tmp_path: Path) -> None:
    """Nor does a FIFO in the place of the bundle, or a name that cannot be."""
    os.mkfifo(tmp_path / "fifo")
    assert "neither a file nor a directory" in opened(sidecar, tmp_path / "fifo")


def test_a_directory_that_is_a_link_is_not_followed(sidecar: Cli, bundle: Path) -> None:
    """What lies behind a link is not the bundle's."""
    (bundle / "streams").rename(sidecar.directory / "elsewhere")
    (bundle / "streams").symlink_to(sidecar.directory / "elsewhere")
    assert "cannot be read" in opened(sidecar, bundle)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..\\x"])
def test_a_zip_file_with_a_name_that_leads_out_is_refused(
    sidecar: Cli, bundle: Path, name: str
) -> None:
    """Though nothing is unpacked here: whoever unpacks it is warned."""
    path = zipped(bundle)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, "x")
    assert "leads out of it" in opened(sidecar, path)


def test_a_zip_file_with_links_or_doubles_is_refused(sidecar: Cli, bundle: Path) -> None:
    """A link, and a name that is there twice, are no bundle's."""
    path = zipped(bundle)
    with zipfile.ZipFile(path, "a") as file:
        link = zipfile.ZipInfo("artifacts/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    assert "no plain file" in opened(sidecar, path)
    path = zipped(bundle)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
        file.writestr(WAITING, "")
    assert "is there twice" in opened(sidecar, path)


@pytest.mark.parametrize("name", [INDEX, WAITING, SEGMENT, PINS])
@pytest.mark.parametrize("content", sampled(BOMBS, [repr(BOMBS[0])], repr))
def test_a_bomb_takes_no_memory(sidecar: Cli, bundle: Path, name: str, content: bytes) -> None:
    """Of a zip file of a few hundred KiB that unpacks to a hundred times that, little is held."""
    raw = content * ((50 << 20) // len(content))
    path = bundle / name
    path.unlink()
    with path.open("wb") as file:
        file.write(raw)
    if name == PINS:
        edit(bundle, lambda index: index.update(pins={"name": PINS, "sha256": "0" * 64}))
    file_ = zipped(bundle)
    del raw
    assert file_.stat().st_size < 512 << 10
    tracemalloc.start()
    try:
        opened(sidecar, file_, ("replay", "show", "--resolve"))
        assert tracemalloc.get_traced_memory()[1] < 25 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(60)
def test_a_sparse_file_is_not_read(sidecar: Cli, bundle: Path) -> None:
    """A file of a tebibyte that takes no room is refused by its size."""
    for name in (SEGMENT, WAITING, INDEX):
        before = (bundle / name).read_bytes()
        with (bundle / name).open("r+b") as file:
            file.truncate(1 << 40)
        assert name in opened(sidecar, bundle)
        (bundle / name).write_bytes(before)


@pytest.mark.parametrize("packed", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_unpacks_without_a_bound_is_not_unpacked(
    sidecar: Cli, bundle: Path, packed: int
) -> None:
    """Python holds all that a bzip2 or LZMA file unpacks to, whatever is asked of it."""
    path = zipped(bundle)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("artifacts/00/" + "0" * 64, bytes(1 << 20), packed)
    assert "packed as no release does" in opened(sidecar, path)


@pytest.mark.parametrize("field", [4, 6])
def test_a_zip_file_of_another_version_is_refused(sidecar: Cli, bundle: Path, field: int) -> None:
    """A directory of the zip file that needs another program is told, not a traceback."""
    path = zipped(bundle)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + field] = 255
    path.write_bytes(raw)
    ran = sidecar("replay", "show", "--bundle", path, env={"SIDECAR_REDIS": ""})
    assert ran.code in (0, 1, 2)
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_is_no_notification_is_passed_over(
    sidecar: Cli, bundle: Path, command: tuple[str, ...]
) -> None:
    """Among the notifications may lie what no sidecar wrote: without an origin, or no event."""
    event = json.dumps({"event_id": "a", "type": "run.abort", "artifact_ref": "r"})
    rows = [["1-0", "event", event],
            ["2-0", "event", '{"artifact_ref":"r"}', "origin", "s/1-0"],
            ["4-0", "event", {"base64": "/w=="}, "origin", "s/1-0"]]  # fmt: skip
    raw = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    write(bundle, "streams/1/000000.jsonl", raw, rows=len(rows))
    words = [word.format(sidecar.directory) for word in command]
    ran = sidecar(*words, "--bundle", bundle, env={"SIDECAR_REDIS": ""})
    assert ran.code in (0, 1, 2, 3, 5, 6), ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("letter", ["", "x", "origin", "1-1-1"])
def test_a_record_of_a_redrive_that_names_no_dead_letter(
    sidecar: Cli, bundle: Path, letter: str
) -> None:
    """Who may write records may write anything: the fleet at a position is shown all the same."""
    names = [one["name"] for one in json.loads((bundle / INDEX).read_bytes())["index"]["streams"]]
    at = names.index(Keys.of(CONTROL, NOTIFICATIONS).redriven)
    name = f"streams/{at}/000000.jsonl"
    row = ["5-0", "letter", letter, "event_id", "a", "reason", "r", "by", "b", "entry", "x"]
    raw = json.dumps(row).encode() + b"\n"
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)

    def named(index: dict[str, Any]) -> None:
        segment = {"name": name, "sha256": hashlib.sha256(raw).hexdigest(), "first": "5-0",
                   "last": "5-0", "count": 1}  # fmt: skip
        index["streams"][at]["segments"] = [segment]

    (bundle / name).write_bytes(raw)
    edit(bundle, named)
    ran = sidecar("replay", "at", "0s", "--bundle", bundle, env={"SIDECAR_REDIS": ""})
    assert ran.code in (0, 3), ran.err


ODD_IDS: Final = ["", "x", "1", "1-", "-1", "1-x", "1-1-1", "1_0-0", "99999999999999999999999-1",
                  "18446744073709551616-0", "\uff11-1"]  # fmt: skip


@pytest.mark.parametrize("odd", ODD_IDS)
def test_an_id_that_is_none_is_told(sidecar: Cli, bundle: Path, odd: str) -> None:
    """In the index, in a row, among what waits: words, and no traceback."""
    whole = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}

    def spoil(index: dict[str, Any]) -> None:
        index["streams"][0]["segments"][0]["first"] = odd

    edit(bundle, spoil)
    assert "damaged" in opened(sidecar, bundle) or INDEX in opened(sidecar, bundle)
    for path, raw in whole.items():
        path.write_bytes(raw)
    write(bundle, WAITING, json.dumps(["control:events", odd]).encode() + b"\n")
    assert WAITING in opened(sidecar, bundle)
    for path, raw in whole.items():
        path.write_bytes(raw)
    if odd != "18446744073709551616-0":  # in a row it is only out of order
        write(bundle, SEGMENT, json.dumps([odd, "event", "{}"]).encode() + b"\n", rows=1)
        assert "damaged" in opened(sidecar, bundle)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "entry_id", [*(f"{HIGHEST}-{n}" for n in (0, 1, HIGHEST)), "0-0", f"{10**16}-0"]
)
def test_ids_beyond_all_times_are_no_trouble(
    sidecar: Cli, bundle: Path, entry_id: str, command: tuple[str, ...]
) -> None:
    """What is an ID, however far from now, is shown, or told to be damaged."""
    event = json.dumps({"event_id": "far", "type": "run.abort", "tenant_id": "t"})
    line = json.dumps([entry_id, "event", event, "origin", f"control:events/{entry_id}"])
    for stream in ("0", "1"):
        write(bundle, f"streams/{stream}/000000.jsonl", line.encode() + b"\n", rows=1)
    words = [word.format(sidecar.directory) for word in command]
    ran = sidecar(*words, "--bundle", bundle, env={"SIDECAR_REDIS": ""})
    assert ran.code in (0, 1, 2, 3, 5, 6), ran.err


@pytest.mark.parametrize(
    "change",
    [
        {"taken_at_us": 10**30}, {"taken_at_us": -1}, {"span_us": [-1, 9]},
        {"span_us": [0, 10**20]},
        {"streams": None}, {"waiting": {"name": WAITING, "sha256": "x"}}, {"control": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_an_index_of_nonsense_is_told(sidecar: Cli, bundle: Path, change: dict[str, Any]) -> None:
    """Values that no release writes are named."""
    edit(bundle, lambda index: index.update(change))
    for command in COMMANDS:
        assert INDEX in opened(sidecar, bundle, command)


def test_what_is_exported_can_be_opened_however_well_it_packs(rig: Rig, sidecar: Cli) -> None:
    """A text that packs as a bomb does is written so that its reader takes it for none."""
    for n in range(300):
        rig.emit(f"e{n}", pad="x" * 15_000)
    sidecar.lay_out()
    path = sidecar.directory / "bundle.zip"
    assert sidecar("replay", "export", path).code == 0
    (found,) = [one for one in zipfile.ZipFile(path).infolist() if one.file_size > 4 << 20]
    assert found.file_size < RATIO * found.compress_size + SLACK_BYTES
    ran = sidecar("replay", "show", "--json", "--bundle", path, env={"SIDECAR_REDIS": ""})
    assert len(ran.objects()) == 301


def test_bundles_and_reports_are_their_owners_alone(bundle: Path, rig: Rig, sidecar: Cli) -> None:
    """What has tenants' data in it is written for nobody else to read."""
    rig.emit("a")
    rig.drain()
    archive, report = sidecar.directory / "b.zip", sidecar.directory / "r.html"
    assert sidecar("replay", "export", archive).code == 0
    assert sidecar("replay", "report", report).code == 0
    inside = [path for path in bundle.rglob("*") if path.is_file()]
    for path in (archive, report, bundle, *inside):
        assert not path.stat().st_mode & 0o077, path
