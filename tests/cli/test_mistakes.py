"""docs/mistakes.md: each mistake is made, and the page's command names it in the page's words."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from sidecar.redis.members import Members
from tests.cli.harness import KEYS, STREAM, Cli

PAGE: Final = Path(__file__).parents[2] / "docs" / "mistakes.md"
ROWS: Final = re.findall(
    r"^\| (\d+) \| .* \| `sidecar (.*?)`.* \| \"(.*?)\" \| .* \|$", PAGE.read_text(), re.MULTILINE
)


def _mistyped(sidecar: Cli) -> None:
    sidecar.env["SIDECAR_FLEET_STROE"] = "file:///srv/fleet"


def _no_stores(sidecar: Cli) -> None:
    sidecar.env |= {"SIDECAR_SOURCE_STORE": "", "SIDECAR_FLEET_STORE": ""}


def _wrong_password(sidecar: Cli) -> None:
    sidecar.lay_out("source", "fleet")
    sidecar.url = sidecar.url.replace("://", "://worker:wrong@")


def _evicting(sidecar: Cli) -> None:
    sidecar.lay_out("source", "fleet")
    sidecar.client.config_set("maxmemory-policy", "allkeys-lru")


def _at_work(sidecar: Cli) -> None:
    sidecar.bring("e-1", "stacks/t_1/web/1", b"{}")
    sidecar.work()


def _served(sidecar: Cli) -> None:
    """What a live worker has on record: which streams it serves."""
    _at_work(sidecar)
    Members(sidecar.client, KEYS, name="host:1", serves=[STREAM], lease_s=600).beat([STREAM])


def _unheard_of(sidecar: Cli) -> None:
    _append(sidecar, {"event_id": "e-1", "type": "page.changed"})


def _never_put(sidecar: Cli) -> None:
    pin = {"artifact_ref": "stacks/t_1/web/1", "checksum": "sha256:" + "0" * 64}
    _append(sidecar, {"event_id": "e-1", "type": "key.changed", **pin})


def _used_again(sidecar: Cli) -> None:
    _at_work(sidecar)
    _append(sidecar, {"event_id": "e-1", "type": "key.changed", "tenant_id": "t_2"})


def _append(sidecar: Cli, event: dict[str, str]) -> None:
    """Append an event by hand, as a producer of one's own does, and have it worked off."""
    sidecar.client.xadd(STREAM, {"event": json.dumps(event)})
    sidecar.work()


MADE: Final[dict[str, Callable[[Cli], None]]] = {
    "1": _mistyped, "2": _no_stores, "3": _wrong_password, "4": _evicting, "5": _served,
    "6": _unheard_of, "7": _never_put, "8": _used_again, "9": _at_work, "10": _at_work,
}  # fmt: skip


def test_there_are_ten() -> None:
    """Each row of the page is a mistake that is made here."""
    assert [number for number, *_ in ROWS] == list(MADE)


@pytest.mark.parametrize(("number", "command", "words"), ROWS)
def test_a_mistake_is_named(sidecar: Cli, number: str, command: str, words: str) -> None:
    """The page's command names the mistake, in the page's words, and without a traceback."""
    MADE[number](sidecar)
    try:
        ran = sidecar(*shlex.split(command))
    finally:
        sidecar.client.config_set("maxmemory-policy", "noeviction")
    assert words in ran.out + ran.err
    assert "Traceback" not in ran.err
