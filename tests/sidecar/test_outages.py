"""What kept an owner from serving: noted, and told once it is over."""

from __future__ import annotations

import pytest
import redis

from sidecar.redis.tenures import Outage
from sidecar.worker.outages import MOST_UNTOLD, Outages

pytestmark = pytest.mark.unit


class Noted:
    """Notes what is put on record, and when; it may fail."""

    def __init__(self) -> None:
        self.told: list[Outage] = []
        self.now_s = 100.0
        self.is_away = False
        self.outages = Outages(self._put, lambda: self.now_s)

    def _put(self, outage: Outage) -> None:
        if self.is_away:
            raise redis.ConnectionError("away")
        self.told.append(outage)


def test_an_outage_is_told_once_it_is_over() -> None:
    """From its first sign to its end, with what was said first; a short one is none."""
    noted = Noted()
    noted.outages.began("store", "first")
    noted.now_s = 108
    noted.outages.began("store", "second")
    noted.outages.tell()
    assert not noted.told
    noted.outages.ended("store")
    noted.outages.ended("store")
    noted.outages.tell()
    noted.outages.began("store", "short")
    noted.now_s = 110
    noted.outages.ended("store")
    noted.outages.tell()
    assert noted.told == [Outage("store", 100, 108, "first")]


def test_what_could_not_be_told_is_told_later() -> None:
    """Redis may be away; no more than a few wait."""
    noted = Noted()
    noted.is_away = True
    for n in range(MOST_UNTOLD + 5):
        noted.outages.began("redis", str(n))
        noted.now_s += 8
        noted.outages.ended("redis")
    with pytest.raises(redis.ConnectionError):
        noted.outages.tell()
    noted.is_away = False
    noted.outages.tell()
    noted.outages.tell()
    assert [one.detail for one in noted.told] == [str(n) for n in range(MOST_UNTOLD)]
