"""The store as transfers see it: the one object that is asked for, jobs, copies, and what is told of them."""

import threading
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError, NotModifiedError, PermissionDeniedError
from obstore.store import ObjectStore

from dicomflow.bucket.keys import job_key, outbound_key, pending_key, returns_key
from dicomflow.bucket.reading import read_document
from dicomflow.bucket.transfer import Job, JobInstance, Pending, PendingTransfer, Returns, decode, encode
from dicomflow.edge.mount import StoreMount
from dicomflow.errors import PermanentError, TransientError

if TYPE_CHECKING:
    from obstore import GetOptions

__all__ = ["TransferStore"]

_CHUNK_BYTES: Final = 1 << 20


class TransferStore:
    """One edge's objects for transfers. Threads: any; `_lock` guards the opening.

    Args:
        edge: whose.
        open_store: called at the first use, and again until it gives one.
        mount: what a store's folder lies on.
        open_to_ask: opens one that gives up soon, for the question that is asked every few seconds.
        announce: told of each object that is put, by its key and size, at least once.
    """

    def __init__(
        self,
        edge: str,
        open_store: Callable[[], ObjectStore],
        mount: StoreMount | None = None,
        open_to_ask: Callable[[], ObjectStore] | None = None,
        announce: Callable[[str, int], None] = lambda _key, _size: None,
    ) -> None:
        self._edge = edge
        self._opens = {False: open_store, True: open_to_ask or open_store}
        self._mount = mount
        self._announce = announce
        self._lock = threading.Lock()
        self._opened: dict[bool, ObjectStore] = {}
        self._e_tag: str | None = None
        self._pending: tuple[PendingTransfer, ...] = ()

    def pending(self) -> tuple[PendingTransfer, ...]:
        """Return what waits for this edge: one request, and no bytes while nothing has changed.

        Raises:
            TransientError: the store did not answer.
            PermanentError: the object is not what it should be; it is read again.
        """
        try:
            options: GetOptions = {} if self._e_tag is None else {"if_none_match": self._e_tag}
            content, e_tag = read_document(self._store(to_ask=True), pending_key(self._edge), options)
        except NotModifiedError:
            return self._pending
        except (FileNotFoundError, PermissionDeniedError):  # S3 calls forbidden what is not there
            self._e_tag, self._pending = None, ()
            return ()
        except (BaseError, OSError) as error:
            raise _unanswered(error) from error
        document = decode(Pending, content)
        self._e_tag, self._pending = e_tag, document.transfers
        return self._pending

    def job(self, transfer: str) -> Job:
        """Return a job.

        Raises:
            FileNotFoundError: it is not there, or may not be read.
            TransientError: the store did not answer.
            PermanentError: it is no job, or that of another edge or transfer.
        """
        try:
            content, _ = read_document(self._store(), job_key(self._edge, transfer))
        except PermissionDeniedError as error:
            raise FileNotFoundError(transfer) from error
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise _unanswered(error) from error
        job = decode(Job, content)
        if (job.edge, job.transfer) != (self._edge, transfer):
            raise PermanentError("the job is not of this edge, or not of this transfer")
        if len({each.number for each in job.instances}) != len(job.instances):
            raise PermanentError("the job has two instances of one number")
        if len({each.sop_instance_uid for each in job.instances}) != len(job.instances):
            raise PermanentError("the job has one SOP Instance under two numbers")
        return job

    def copy(self, transfer: str, instance: JobInstance) -> Generator[bytes]:
        """Yield the bytes of a copy.

        Raises:
            FileNotFoundError: it is not there any more.
            PermanentError: it has not as many bytes as its job says.
            TransientError: the store did not answer.
        """
        try:
            yield from map(bytes, self._copy(transfer, instance))
        except FileNotFoundError:
            raise
        except PermissionDeniedError as error:
            self.job(transfer)  # where that may be read, the copy is not there
            raise FileNotFoundError(f"{transfer}/{instance.number}") from error
        except (BaseError, OSError) as error:
            raise _unanswered(error) from error

    def put(self, returns: Returns) -> None:
        """Put what became of a transfer. Raises `TransientError`, and whatever `announce` raises."""
        key, content = returns_key(self._edge, returns.transfer), encode(returns)
        try:
            obstore.put(self._store(), key, content, use_multipart=False)
        except (BaseError, OSError) as error:
            raise _unanswered(error) from error
        self._announce(key, len(content))

    def _copy(self, transfer: str, instance: JobInstance) -> Iterator[obstore.Bytes]:
        found = obstore.get(self._store(), outbound_key(self._edge, transfer, instance.number))
        if (size := found.meta["size"]) != instance.bytes:
            raise PermanentError(f"the copy has {size:,} bytes, not {instance.bytes:,}")
        yield from found.stream(min_chunk_size=_CHUNK_BYTES)

    def _store(self, *, to_ask: bool = False) -> ObjectStore:
        with self._lock:
            if self._mount is not None:
                self._mount.check()
            if to_ask not in self._opened:
                try:
                    self._opened[to_ask] = self._opens[to_ask]()
                except Exception as error:
                    raise TransientError(f"the store cannot be opened: {type(error).__name__}") from error
            return self._opened[to_ask]


def _unanswered(error: Exception) -> TransientError:
    return TransientError(f"the store did not answer: {type(error).__name__}")
