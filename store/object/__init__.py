"""The object backend: `backend` gets, `put` puts, `verify` and `collect` keep it in order.

`layout` has the keys, `client` every request that is made, `stream` reads large data, `urls` says
what a URL names.
"""

from __future__ import annotations

from store.object.backend import ObjectStore, open_object

__all__ = ["ObjectStore", "open_object"]
