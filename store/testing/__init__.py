"""The contract as tests, for any backend to join.

A backend's own test module says how to open it and which capabilities it declares:

    from store.testing import ListConformance, PinnedGetConformance, StoreConformance

    class TestMine(StoreConformance, PinnedGetConformance, ListConformance):
        @pytest.fixture
        def store(self):
            return open_mine(StoreConfig(url="mine://localhost"))

A capability declared without its class, or the other way round, fails a test. Two more classes
need a hook into the storage behind the backend: `CorruptionConformance` and
`OutageConformance`. `StoreModel` is a Hypothesis state machine against a dict.

This package needs pytest and hypothesis; `store` itself does not.
"""

from __future__ import annotations

from store.testing.conformance import (
    CorruptionConformance,
    ListConformance,
    OutageConformance,
    PinnedGetConformance,
    PositionConformance,
    StoreConformance,
)
from store.testing.model import StoreModel

__all__ = [
    "CorruptionConformance",
    "ListConformance",
    "OutageConformance",
    "PinnedGetConformance",
    "PositionConformance",
    "StoreConformance",
    "StoreModel",
]
