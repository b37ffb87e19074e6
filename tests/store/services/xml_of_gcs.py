"""Half of GCS's XML API, before a fake-gcs-server: `xml_of_gcs.py PORT UPSTREAM_PORT`.

obstore's client speaks that API, of which fake-gcs-server has the reading half; the rest is turned
into its JSON API. Whether a condition on a generation holds is for fake-gcs-server to say. Uploads
in parts are put together here, and conditions on an ETag are looked at here.
"""

from __future__ import annotations

import http.client
import json
import sys
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

_BOUNDARY: Final = "between-metadata-and-data"


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody adds to it
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


class _Translator(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, upstream_port: int) -> None:
        super().__init__(("127.0.0.1", port), _Exchange)
        self.upstream_port = upstream_port
        self.uploads: dict[str, dict[int, bytes]] = {}
        """The parts of each upload that is not complete, by number."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients may go."""


class _Exchange(BaseHTTPRequestHandler):
    """One request of the XML API, and what becomes of it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Translator

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with suppress(OSError):
            self._send(self._translated(body))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815 - names of the base class

    def _translated(self, body: bytes) -> _Answer:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {name: one[0] for name, one in parse_qs(url.query, keep_blank_values=True).items()}
        if url.path.startswith("/storage/v1/"):
            return self._ask(self.command, self.path, body, {"Content-Type": "application/json"})
        if not key:
            return self._list(bucket, query)
        if "uploadId" in query or "uploads" in query:
            return self._in_parts(bucket, key, query, body)
        if self.command == "PUT":
            source = self.headers.get("x-goog-copy-source")
            return self._copy(source, bucket, key) if source else self._put(bucket, key, body)
        if self.command == "DELETE":
            found = self._ask("DELETE", _object(bucket, key))
            return _Answer(204) if found.status == 200 else _missing(found)
        return self._get()

    def _get(self) -> _Answer:
        asked = {name: self.headers[name] for name in ("Range",) if name in self.headers}
        found = self._ask(self.command, self.path, b"", asked)
        wanted = self.headers.get("If-Match")
        if found.status < 300 and wanted and wanted != found.headers.get("Etag"):
            return _Answer(412)
        return _missing(found) if found.status == 404 else found

    def _put(self, bucket: str, key: str, body: bytes) -> _Answer:
        query = {"uploadType": "multipart"}
        if generation := self.headers.get("x-goog-if-generation-match"):
            query["ifGenerationMatch"] = generation
        parts = (b"application/json", json.dumps({"name": key}).encode()), (
            b"application/octet-stream", body,
        )  # fmt: skip
        mark = f"--{_BOUNDARY}".encode()
        path = f"/upload/storage/v1/b/{bucket}/o?{urlencode(query)}"
        content = b"".join(
            b"%b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (mark, kind, part) for kind, part in parts
        )
        found = self._ask(
            "POST", path, content + mark + b"--\r\n",
            {"Content-Type": f"multipart/related; boundary={_BOUNDARY}"},
        )  # fmt: skip
        if found.status != 200:
            return _missing(found) if found.status == 404 else found
        made = found.json()
        return _Answer(200, {"ETag": f'"{made["etag"]}"', "x-goog-generation": made["generation"]})

    def _copy(self, source: str, bucket: str, key: str) -> _Answer:
        origin, _, name = unquote(source).partition("/")
        path = f"{_object(origin, name)}/rewriteTo/b/{bucket}/o/{quote(key, safe='')}"
        found = self._ask("POST", path, b"{}", {"Content-Type": "application/json"})
        return _missing(found) if found.status == 404 else _Answer(found.status)

    def _in_parts(self, bucket: str, key: str, query: dict[str, str], body: bytes) -> _Answer:
        uploads = self.server.uploads
        name = query.get("uploadId", "")
        if "uploads" in query:
            name = uuid.uuid4().hex
            uploads[name] = {}
            return _result("InitiateMultipartUploadResult", f"<UploadId>{name}</UploadId>")
        if name not in uploads:
            return _Answer(404, {}, b"<Error><Code>NoSuchUpload</Code></Error>")
        if self.command == "DELETE":
            del uploads[name]
            return _Answer(204)
        if self.command == "PUT":
            uploads[name][int(query["partNumber"])] = body
            return _Answer(200, {"ETag": f'"{query["partNumber"]}"'})
        parts = uploads[name]
        found = self._put(bucket, key, b"".join(parts[number] for number in sorted(parts)))
        if found.status != 200:
            return found
        uploads.pop(name, None)
        tag = f"<ETag>{escape(found.headers['ETag'])}</ETag>"
        return _result("CompleteMultipartUploadResult", tag)._replace(headers=found.headers)

    def _list(self, bucket: str, query: dict[str, str]) -> _Answer:
        names = {"prefix": "prefix", "continuation-token": "pageToken", "max-keys": "maxResults"}
        asked = {names[name]: value for name, value in query.items() if name in names}
        asked.setdefault("maxResults", "1000")
        after = query.get("start-after")
        if after:
            asked["startOffset"] = after
        found = self._ask("GET", f"/storage/v1/b/{bucket}/o?{urlencode(asked)}")
        if found.status != 200:
            return _missing(found)
        page = found.json()
        items = "".join(
            f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size>"
            f"<LastModified>{item['updated']}</LastModified><ETag>{escape(item['etag'])}</ETag>"
            "</Contents>"
            for item in page.get("items", ()) if item["name"] != after
        )  # fmt: skip
        token = page.get("nextPageToken")
        rest = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
        return _result("ListBucketResult", items + rest)

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> _Answer:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=60)
        try:
            upstream.request(method, path, body or None, headers or {})
            answer = upstream.getresponse()
            return _Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            upstream.close()

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        length = answer.headers.get("Content-Length", "") if self.command == "HEAD" else ""
        for name, value in answer.headers.items():
            if name.lower() not in {"content-length", "connection", "transfer-encoding", "date"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
        """Say nothing."""


def _result(name: str, text: str) -> _Answer:
    return _Answer(200, {}, f"<{name}>{text}</{name}>".encode())


def _object(bucket: str, key: str) -> str:
    return f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}"


def _missing(found: _Answer) -> _Answer:
    return _Answer(found.status, {}, b"<Error><Code>NoSuchKey</Code></Error>")


if __name__ == "__main__":
    _Translator(int(sys.argv[1]), int(sys.argv[2])).serve_forever()
