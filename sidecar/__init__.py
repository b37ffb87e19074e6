"""An event-log sidecar: artifacts into the fleet's store, reference-only notifications out."""

__version__ = "0.1.0"
