"""An origin server that takes STOW-RS, and answers as it is told."""

import email.parser
import email.policy
import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dicomflow.dicom.part10 import decode_file_meta

__all__ = ["StowOrigin"]


class StowOrigin:
    """Keeps the digests of what it stores by SOP Instance UID.

    `statuses` are those of the next requests, none of which stores anything; `refuses` has Failure Reasons by instance,
    one for each time; with `is_terse` its answers have no body.
    """

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.refuses: dict[str, list[int]] = {}
        self.is_terse = False
        self.digests: dict[str, str] = {}
        self.taken: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        origin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # as the base class calls it
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = origin._take(self.path, dict(self.headers.items()), body)
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_OPTIONS(self) -> None:  # as the base class calls it
                self.send_response(origin.statuses.pop(0) if origin.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/dicom-web"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """Take no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        with self._lock:
            parts = _parts(headers["Content-Type"], body)
            uids = [decode_file_meta(part).sop_instance_uid for part in parts]
            self.requests.append({"path": path, "uids": uids, "headers": headers, "body": body})
            if self.statuses:
                return self.statuses.pop(0), b""
            stored, failed = [], []
            for uid, part in zip(uids, parts, strict=True):
                if self.refuses.get(uid):
                    failed.append((uid, self.refuses[uid].pop(0)))
                    continue
                self.taken[uid] += 1
                self.digests[uid] = hashlib.sha256(part).hexdigest()
                stored.append(uid)
            status = 200 if not failed else 202 if stored else 409
            return status, b"" if self.is_terse else json.dumps(_document(stored, failed)).encode()


def _document(stored: list[str], failed: list[tuple[str, int]]) -> dict[str, Any]:
    """Return the store instances response (PS3.18 10.5.3.1)."""
    document: dict[str, Any] = {}
    if stored:
        items = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in stored]
        document["00081199"] = {"vr": "SQ", "Value": items}
    if failed:
        document["00081198"] = {
            "vr": "SQ",
            "Value": [
                {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
                for uid, reason in failed
            ],
        }
    return document


def _parts(content_type: str, body: bytes) -> list[bytes]:
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    assert message.get_content_type() == "multipart/related"
    boundary = message.get_boundary()
    assert boundary is not None
    pieces = body.split(b"--" + boundary.encode())
    assert pieces[-1] == b"--\r\n"
    return [piece.split(b"\r\n\r\n", 1)[1][:-2] for piece in pieces[1:-1]]
