"""What happened, as it can be read: in Redis, in the archive, in a bundle, or in all of them."""

from sidecar.history.contract import ANY, About, Gap, History, Reach, Streams

__all__ = ["ANY", "About", "Gap", "History", "Reach", "Streams"]
