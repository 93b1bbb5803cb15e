"""An S3 server in memory, with the part of the protocol that pyarrow uses."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase, BytesIO
from threading import Thread
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

KEY = "AKIATESTKEYTESTKEY00"
SECRET = "s3cr3t/of+tests"


class ObjectStore(ThreadingHTTPServer):
    """Objects by bucket and key, such as `bucket/folder/file`.

    Attributes:
        objects: content by name.
        modified: times at which objects were written, by name; only these are listed with a time.
        keys: access keys with which requests were signed.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, str] = {}
        self.keys: set[str] = set()

    def uri(self, path: str) -> str:
        """Returns the URI of an object or folder, with the credentials in it."""
        place = quote(f"127.0.0.1:{self.server_address[1]}")
        user = f"{KEY}:{quote(SECRET, safe='')}"
        return f"s3://{user}@{path}?scheme=http&region=us-east-1&endpoint_override={place}"


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store that answers while the context lasts."""
    with ObjectStore() as store:
        thread = Thread(target=store.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ObjectStore

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._note_key()
        name, options = self._asked()
        if "list-type" in options:
            self._answer(200, self._listing(name, options["prefix"][0]).encode())
        elif "/" not in name.rstrip("/"):
            self._answer(200)
        elif (content := self.server.objects.get(name)) is None:
            self._answer(404)
        elif found := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            self._answer(206, content[int(found[1]) : int(found[2]) + 1])
        else:
            self._answer(200, content)

    def do_PUT(self) -> None:
        self._note_key()
        name, options = self._asked()
        content = self._body()
        if "partNumber" in options:
            name = f"{name}#{options['partNumber'][0]}"
        # A key that ends with a slash stands for a folder, which exists without it.
        if "/" in name and not name.endswith("/"):
            self.server.objects[name] = content
        self._answer(200, headers={"ETag": '"0"'})

    def do_POST(self) -> None:
        name, options = self._asked()
        self._body()
        objects = self.server.objects
        if "uploadId" in options:
            parts = sorted(
                (part for part in objects if part.startswith(f"{name}#")),
                key=lambda part: int(part.rpartition("#")[2]),
            )
            objects[name] = b"".join(objects.pop(part) for part in parts)
        what = "Complete" if "uploadId" in options else "Initiate"
        body = f"<UploadId>1</UploadId><ETag>0</ETag></{what}MultipartUploadResult>"
        self._answer(200, f"<{what}MultipartUploadResult>{body}".encode())

    def do_DELETE(self) -> None:
        self.server.objects.pop(self._asked()[0], None)
        self._answer(204)

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path).lstrip("/"), parse_qs(parts.query, keep_blank_values=True)

    def _note_key(self) -> None:
        if found := re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", "")):
            self.server.keys.add(found[1])

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(_chunks(self.rfile))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # The SDK sends chunks with checksums within the chunks of HTTP.
        is_packed = "aws-chunked" in self.headers.get("Content-Encoding", "")
        return b"".join(_chunks(BytesIO(body))) if is_packed else body

    def _listing(self, bucket: str, prefix: str) -> str:
        keys = sorted(name.removeprefix(f"{bucket}/") for name in self.server.objects)
        found = [key for key in keys if key.startswith(prefix)]
        files = [key for key in found if "/" not in key[len(prefix) :]]
        folders = {prefix + key[len(prefix) :].partition("/")[0] + "/" for key in found}
        folders -= {f"{key}/" for key in files}
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key>"
            f"<Size>{len(self.server.objects[f'{bucket}/{key}'])}</Size>"
            f"{self._modified(f'{bucket}/{key}')}</Contents>"
            for key in files
        )
        prefixes = "".join(
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            for folder in sorted(folders)
        )
        count = len(files) + len(folders)
        return (
            f"<ListBucketResult><KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>"
            f"{contents}{prefixes}</ListBucketResult>"
        )

    def _modified(self, name: str) -> str:
        time = self.server.modified.get(name)
        return f"<LastModified>{time}</LastModified>" if time else ""

    def _answer(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _chunks(stream: BufferedIOBase) -> Iterator[bytes]:
    while size := int(stream.readline().partition(b";")[0], 16):
        yield stream.read(size)
        stream.readline()
    # Trailers end with an empty line.
    while stream.readline().strip():
        pass
