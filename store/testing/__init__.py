"""The contract as tests, for any backend to join.

A backend's own test module says how to open it and which capabilities it declares:

    from store.testing import ListConformance, PinnedGetConformance, StoreConformance

    class TestMine(StoreConformance, PinnedGetConformance, ListConformance):
        @pytest.fixture
        def store(self):
            return open_mine(StoreConfig(url="mine://localhost"))

A capability declared without its class, or the other way round, fails a test. Some classes need a
hook into the storage behind the backend: `CorruptionConformance`, `HealingConformance` and
`VerifyConformance`, which plant damage, `PurgeConformance`, which also looks there, and
`OutageConformance`. `StoreModel` is a Hypothesis state
machine against a dict.

`Slow` and `Faulty` are stores around a store, for the tests of programs that use one.

This package needs pytest and hypothesis (the extra `testing`); `store` itself does not.
"""

from __future__ import annotations

import pytest

for _module in (
    "collecting",
    "conformance",
    "deleting",
    "healing",
    "identifying",
    "limiting",
    "many",
    "model",
    "purging",
    "streaming",
    "trouble",
    "versions",
):
    pytest.register_assert_rewrite(f"{__name__}.{_module}")

# ruff: noqa: E402 - only what is imported after that says what a failed assertion compared
from store.testing.collecting import CollectConformance
from store.testing.conformance import StoreConformance
from store.testing.deleting import DeleteConformance
from store.testing.healing import HealingConformance
from store.testing.identifying import IdentityConformance
from store.testing.limiting import LimitConformance
from store.testing.many import ManyConformance
from store.testing.model import StoreModel
from store.testing.purging import PurgeConformance
from store.testing.streaming import StreamConformance
from store.testing.trouble import CorruptionConformance, OutageConformance, VerifyConformance
from store.testing.versions import ListConformance, PinnedGetConformance, PositionConformance
from store.testing.wrappers import Fault, Faulty, Slow, random_faults

__all__ = [
    "CollectConformance",
    "CorruptionConformance",
    "DeleteConformance",
    "Fault",
    "Faulty",
    "HealingConformance",
    "IdentityConformance",
    "LimitConformance",
    "ListConformance",
    "ManyConformance",
    "OutageConformance",
    "PinnedGetConformance",
    "PositionConformance",
    "PurgeConformance",
    "Slow",
    "StoreConformance",
    "StoreModel",
    "StreamConformance",
    "VerifyConformance",
    "random_faults",
]
