"""The chassis-file backend: `backend` puts and gets, `layout` says where everything lies."""

from __future__ import annotations

from store.chassis.backend import ChassisStore, open_chassis

__all__ = ["ChassisStore", "open_chassis"]
