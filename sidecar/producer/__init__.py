"""What producers import.

`Producer` puts an artifact and appends its event, at once. `sidecar.producer.outbox` is for those
with a database: the event is staged in the transaction of the change, and sent by a pump.
"""

from sidecar.producer.direct import Producer

__all__ = ["Producer"]
