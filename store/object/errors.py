"""What goes wrong between the object backend and its bucket, and the fix for each."""

from __future__ import annotations

import re

from store.errors import Unavailable

TOO_FAST = (
    "it takes fewer requests a second than come: raise its limit, or have fewer store threads"
)
NO_BUCKET = "the bucket does not exist: make it, or name another one"

ABSENT = 404
EMPTY = 416  # no range of an empty object can be had
UNKNOWN_HEADER = 501
_MAY_NOT = {401, 403}

_STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")
_BROKEN_OFF = re.compile(r"response body|Got invalid \w+ response")
_CODE = re.compile(r"<Code>([\w.]{1,64})</Code>|\(code: ([A-Za-z]\w{0,63})\)")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_ANSWERS = (
    ("RequestTimeTooSkewed", "the clock of this host is wrong: set it (NTP)"),
    (
        "InvalidAccessKeyId|InvalidAuthenticationInfo",
        "it knows no such key: correct the credentials",
    ),
    ("SignatureDoesNotMatch|AuthenticationFailed", "the secret is not that of the key: correct it"),
    ("ExpiredToken|InvalidToken", "the session's token is not valid any more: renew it"),
    (
        r"\bKMS|\bkms:",
        "the key that encrypts there cannot be used: enable it, and let the credentials use it",
    ),
    (
        "QuotaExceeded|StorageFull|InsufficientCapacity",
        "the space is used up: raise the quota, or remove what nobody needs (sidecar store gc)",
    ),
    (
        "SlowDown|ServerBusy|TooManyRequests|RequestLimitExceeded|OperationAborted",
        TOO_FAST,
    ),
    (
        "Object Lock parameters|InvalidDigest",
        "the bucket's Object Lock wants checksums: set AWS_CHECKSUM_ALGORITHM=SHA256",
    ),
    (
        "(?i)object lock|ObjectLocked|WORM|Immutable|retention",
        "a retention rule protects what is there: wait for its end, or lift it",
    ),
    ("(?i)requester ?pays|UserProjectMissing", "who asks pays there: set AWS_REQUEST_PAYER=true"),
    ("NoSuchBucket|ContainerNotFound", NO_BUCKET),
)
"""What services say, and the fix: looked for in the code and the text of an answer, no key's."""
_FIXES = (
    (r"status code: 401", "it does not accept the credentials: check them, and the clock"),
    (
        r"status code: 403",
        "let the credentials read, write, list and delete there (without list, S3 hides absence)",
    ),
    (r"status code: 404", "what this needs is not there, or not any more: try again later"),
    (r"status code: 3\d\d|redirect", "the bucket lies elsewhere: set AWS_REGION or the endpoint"),
    (r"status code: 429", TOO_FAST),
    (r"status code: 4\d\d", "it does not accept the request: look at the settings"),
    (r"dns error", "its name does not resolve: check the endpoint, and DNS"),
    (r"kind: Connect", "it does not let us connect: check the endpoint, and the network"),
    (r"TimedOut|kind: Timeout", "it does not answer in time"),
    (r"invalid path", "somebody put a key there that is no path: remove it by the service's tools"),
    (
        r"Invalid Access Key|Unable to decode|pem file",
        "a key among the credentials cannot be decoded: copy it anew, whole",
    ),
    (r"Missing(AccessKeyId|SecretAccessKey|Account)|[Cc]redential", "set its credentials, whole"),
    (r"BadScheme", "it is not https: write http:// in the endpoint if that is meant"),
)


class Conflict(Exception):
    """The key changed, or came to be, since it was looked at."""


class Absent(Exception):
    """There is no such key, or no such bucket; its text says what the service said."""


class Failed(Unavailable):
    """A request failed; `status` is the answer's, 0 when none came."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotAllowed(Failed):
    """The credentials do not allow the request."""


class BrokenOff(Failed):
    """The answer's body did not come to its end."""


def failed(error: Exception, doing: str, where: object) -> Failed:
    """Return an error of obstore's as one of these, in words that hold no secret."""
    found = _STATUS.search(str(error))
    status = int(found[1][:3]) if found else 0
    kind = BrokenOff if _BROKEN_OFF.search(str(error)) else Failed
    kind = NotAllowed if status in _MAY_NOT else kind
    return kind(f"cannot {doing} at {where}: {reason(error)}", status)


def reason(error: Exception) -> str:
    """Say what happened, and the fix, in words that hold no secret."""
    text = str(error)
    status, code, message = _STATUS.search(text), _CODE.search(text), _MESSAGE.search(text)
    said = [status[1].strip()] if status else []
    said += [code[1] or code[2]] if code else []
    answer = f"{said[-1] if said else ''} {message[1] if message else ''}"
    fixes = [fix for pattern, fix in _ANSWERS if re.search(pattern, answer)]
    fixes += [fix for pattern, fix in _FIXES if re.search(pattern, text)]
    fix = next(iter(fixes), "try again later")
    return f"{' '.join(said)}: {fix}" if said else fix
