"""Requests to a DICOMweb origin: paced, tried again where that may help, and never an empty answer for a failure.

What the origin refuses is a `PermanentError`, what may be otherwise later a `TransientError`. Their texts hold the
status and the kind of request, and nothing of what was asked.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import HTTPError

from dicomflow.archive.errors import NotHeldError
from dicomflow.archive.remote.origin import Origin
from dicomflow.errors import DicomflowError, PermanentError, TransientError

__all__ = ["NotAcceptableError", "OriginClient", "Pace"]

_JSON: Final = "application/dicom+json"
_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 60.0
_CONNECTIONS: Final = 32
_PIECE_BYTES: Final = 1 << 20
_MOST_JSON_BYTES: Final = 256 << 20
_TRIES: Final = 4
_THROTTLED_TRIES: Final = 10
_FIRST_PAUSE_SECONDS: Final = 0.25
_MOST_PAUSE_SECONDS: Final = 8.0
_THROTTLED: Final = 429
_AWAY: Final = frozenset({408, 500, 502, 503, 504})
_Result = TypeVar("_Result")


class NotAcceptableError(NotHeldError):
    """The origin has the object, and not in what was asked for (406)."""


class Pace:
    """Lets so many pass a second, some of them at once. Threads: any."""

    def __init__(
        self,
        per_second: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._per_second = per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = clock()  # when the next may pass, if nobody waits

    def wait(self) -> None:
        """Return when it is one's turn; turns that nobody took in the last second are kept."""
        if self._per_second is None:
            return
        with self._lock:
            now = self._clock()
            turn = max(self._next, now - 1.0)
            self._next = turn + 1 / self._per_second
        if turn > now:
            self._sleep(turn - now)


@dataclass(frozen=True, slots=True)
class _Answered:
    """What an attempt came to: an error that is final, or one after which to try again, and when."""

    error: DicomflowError
    is_throttled: bool = False
    after_seconds: float | None = None
    is_final: bool = False


class OriginClient:
    """Asks one origin. Threads: any."""

    def __init__(self, origin: Origin, sleep: Callable[[float], None] = time.sleep) -> None:
        self.origin = origin
        self._sleep = sleep
        self._pace = Pace(origin.requests_per_second, sleep=sleep)
        timeout = urllib3.Timeout(_CONNECT_SECONDS, _READ_SECONDS)
        shared: dict[str, Any] = {"maxsize": _CONNECTIONS, "timeout": timeout, "ca_certs": origin.ca}
        self._pool = urllib3.ProxyManager(origin.proxy, **shared) if origin.proxy else urllib3.PoolManager(**shared)

    def search(self, path: str, query: Sequence[tuple[str, str]]) -> tuple[list[Mapping[str, Any]], bool]:
        """Return a page of rows in the DICOM JSON model, and whether the origin says that there are more.

        Raises:
            NotHeldError: there is no such resource.
            PermanentError: the origin refuses the question, or its answer is no list of rows.
            TransientError: it does not answer.
        """
        url = f"{self.origin.url}{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        return self._trying(lambda: self._search(url))

    def download(self, path: str, transfer_syntax: str, file: Callable[[], BinaryIO]) -> BinaryIO:
        """Return an object as a Part 10 file, written into one that `file` makes; each attempt has a new one.

        Args:
            path: of the instance.
            transfer_syntax: the UID that is asked for, or `*` for any.
            file: makes a file to write into.

        Raises:
            NotHeldError: the origin does not have it; NotAcceptableError: not so.
            PermanentError, TransientError: as `search`.
        """
        accept = f"application/dicom; transfer-syntax={transfer_syntax}"
        return self._trying(lambda: self._download(f"{self.origin.url}{path}", accept, file))

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _search(self, url: str) -> "tuple[list[Mapping[str, Any]], bool] | _Answered":
        with self._asked(url, _JSON) as response:
            if isinstance(response, _Answered):
                return response
            if response.status == 204:  # as editions before 2026 have it
                return [], False
            body = response.read(_MOST_JSON_BYTES + 1, decode_content=True)
            if len(body) > _MOST_JSON_BYTES:
                raise PermanentError(f"the origin's answer to a search exceeds {_MOST_JSON_BYTES:,} bytes")
            has_more = "additional" in response.headers.get("warning", "")
        try:
            rows = json.loads(body)
        except ValueError as error:
            raise PermanentError("the origin's answer to a search is no JSON") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise PermanentError("the origin's answer to a search is no list of rows")
        return rows, has_more

    def _download(self, url: str, accept: str, make: Callable[[], BinaryIO]) -> "BinaryIO | _Answered":
        with self._asked(url, accept) as response:
            if isinstance(response, _Answered):
                return response
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status != 200 or kind != "application/dicom":
                raise PermanentError(f"the origin answers a retrieval with {response.status} and {kind or 'no type'}")
            file = make()
            try:
                for piece in response.stream(_PIECE_BYTES):
                    file.write(piece)
            except BaseException:
                file.close()
                raise
            return file

    @contextmanager
    def _asked(self, url: str, accept: str) -> Iterator["urllib3.BaseHTTPResponse | _Answered"]:
        """Give the response of one attempt whose status is a success; else why there is none."""
        self._pace.wait()
        encoding = "gzip" if accept == _JSON else "identity"
        headers = self.origin.sign(url, {"Accept": accept, "Accept-Encoding": encoding})
        response = self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False, retries=False)
        try:
            yield response if response.status in {200, 204} else _refusal(response)
        finally:
            # What is not read to its end closes the connection.
            if not response.closed and response.length_remaining not in {0, None}:
                response.close()
            response.release_conn()

    def _trying(self, attempt: "Callable[[], _Result | _Answered]") -> "_Result":
        """Return what an attempt gives; try again where that may help."""
        tries = 0
        while True:
            tries += 1
            try:
                found = attempt()
            except (HTTPError, OSError) as error:
                found = _Answered(TransientError(f"the origin does not answer: {type(error).__name__}"))
            if not isinstance(found, _Answered):
                return found
            if found.is_final or tries >= (_THROTTLED_TRIES if found.is_throttled else _TRIES):
                raise found.error
            pause = min(_MOST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311  # spreads tries
            self._sleep(pause if found.after_seconds is None else min(_MOST_PAUSE_SECONDS, found.after_seconds))


def _refusal(response: urllib3.BaseHTTPResponse) -> _Answered:
    status = response.status
    if status == _THROTTLED or status in _AWAY:
        after = response.headers.get("retry-after", "")
        error = TransientError(f"the origin answers {status}")
        return _Answered(error, status == _THROTTLED, float(after) if after.isdecimal() else None)
    if status in {404, 410}:
        return _Answered(NotHeldError(f"the origin answers {status}: it does not have this"), is_final=True)
    if status == 406:
        return _Answered(NotAcceptableError("the origin answers 406: it does not give it so"), is_final=True)
    hint = ": are the credentials right, and do they allow this?" if status in {401, 403} else ""
    return _Answered(PermanentError(f"the origin answers {status}{hint}"), is_final=True)
