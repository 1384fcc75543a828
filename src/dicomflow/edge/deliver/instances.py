"""From files of the spool to instances: what their names, meta information and headers tell, and what is known of them.

A file whose bytes, or whose data set, were delivered before is recognised by the ledger.
"""

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from dicomflow.bucket.manifest import Manifest
from dicomflow.dicom.part10 import decode_file_meta, encode_file_meta
from dicomflow.dicom.scan import HEAD_BYTES, identify
from dicomflow.dicom.uids import is_usable, strip_padding
from dicomflow.edge.deliver.delivery import Delivery, ReceivedInstance
from dicomflow.edge.ledger import LedgerEntry
from dicomflow.edge.settings import DeliverySettings
from dicomflow.edge.spool.names import MANIFEST_FILE, ReceivedFile
from dicomflow.edge.spool.setaside import SetAside, describe_failure
from dicomflow.errors import PeerError, PermanentError
from dicomflow.regularfiles import NotRegularError, free_name, open_regular, read_regular

__all__ = [
    "FILE_IS_GONE",
    "MANIFEST_FILE",
    "entry_of",
    "fault_of",
    "has_same_data_set",
    "is_of_file",
    "quarantine_unreadable",
    "rank_of",
    "read_all",
    "read_instance",
    "read_instances",
    "read_manifest",
    "unreadable",
]

FILE_IS_GONE: Final = "the spooled file is gone"
_OF_THE_PROCESS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN})
_CHUNK_BYTES: Final = 1 << 20

_logger = logging.getLogger(__name__)


def read_instances(
    files: Iterable[ReceivedFile], quarantine: Callable[[ReceivedFile, str], None], aside: SetAside
) -> Iterator[ReceivedInstance]:
    """Read the heads of received files; one that is no instance, or has a bad page, is quarantined with its reason.

    What fails in any other way may be read later: it is set aside, and passed by while it is.
    """
    for file in files:
        if aside.holds(file.path):
            continue
        try:
            found = list(read_all([file], quarantine))
        except Exception as error:  # noqa: BLE001  # a boundary around one of many; it is logged there
            aside.note(file.path, error)
            continue
        yield from found


def read_all(
    files: Iterable[ReceivedFile], quarantine: Callable[[ReceivedFile, str], None]
) -> Iterator[ReceivedInstance]:
    """Read the heads of files, as `read_instances` does, but leave none out that may be read later.

    Raises `OSError` for a failure that may pass.
    """
    for file in files:
        try:
            yield read_instance(file)
        except FileNotFoundError:
            continue  # its commit failed, and it was never acknowledged
        except OSError as error:
            quarantine_unreadable(file, error, quarantine)
        except PeerError as error:
            quarantine(file, str(error))


def quarantine_unreadable(file: ReceivedFile, error: OSError, quarantine: Callable[[ReceivedFile, str], None]) -> None:
    """Quarantine a file with a bad page, or what is no file, for the others to go on; raises any other `error`."""
    reason = fault_of(error)
    if reason is None:
        raise error
    _logger.error("file_not_read file=%s", file.path.name)
    quarantine(file, reason)


def fault_of(error: OSError) -> str | None:
    """Return what is wrong with a file that will not be read however often that is tried; None where it may pass."""
    if isinstance(error, NotRegularError | IsADirectoryError):
        return str(error.strerror)
    return "the disk does not give its bytes" if error.errno == errno.EIO else None


def is_of_file(error: OSError) -> bool:
    """Tell whether one file is to blame, and not what the process has too little of."""
    return error.errno not in _OF_THE_PROCESS


def unreadable(error: OSError) -> str:
    """Return what the ledger says of an instance that is left out of its delivery since it cannot be read."""
    return f"its file cannot be read, and is tried again: {describe_failure(error)}"


def read_instance(file: ReceivedFile) -> ReceivedInstance:
    """Read a received file's meta information and identity; raises `PeerError` when it is no such file."""
    with open_regular(file.path) as opened:
        head = opened.read(HEAD_BYTES)
        meta = decode_file_meta(head)
        found = identify(opened, head, meta)
        stat = os.fstat(opened.fileno())
    uids = (meta.sop_instance_uid, _uid(found.study_instance_uid), _uid(found.series_instance_uid))
    if not all(map(is_usable, uids)):
        raise PeerError("SOP, Study or Series Instance UID is missing or illegal")
    return ReceivedInstance(
        file=file,
        sop_instance_uid=uids[0],
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        study_instance_uid=uids[1],
        series_instance_uid=uids[2],
        bytes=stat.st_size,
        received_at=datetime.fromtimestamp(stat.st_mtime, UTC),
        calling_ae_title=meta.calling_ae_title,
        called_ae_title=meta.called_ae_title,
        modality=_uid(found.modality),
    )


def has_same_data_set(instance: ReceivedInstance, known: LedgerEntry) -> bool:
    """Tell whether an instance and one of the ledger have one data set, whatever their file meta information.

    The known file's meta information is written again and digested before the new file's data set: if the digest is
    the known file's, so is the data set. Raises `OSError` when the file cannot be read.
    """
    if instance.file.sha256 == known.sha256:
        return True
    if (instance.sop_class_uid, instance.transfer_syntax_uid) != (known.sop_class_uid, known.transfer_syntax_uid):
        return False
    try:
        meta = encode_file_meta(
            known.sop_class_uid,
            known.sop_instance_uid,
            known.transfer_syntax_uid,
            known.calling_ae_title,
            known.called_ae_title,
        )
    except ValueError:  # the ledger's text is damaged
        return False
    with open_regular(instance.file.path) as opened:
        opened.seek(decode_file_meta(opened.read(HEAD_BYTES)).data_set_offset)
        return _digest(meta, opened) == known.sha256


def entry_of(instance: ReceivedInstance, delivery: Delivery, edge: str) -> LedgerEntry:
    """Return what the ledger keeps of an instance that was put into a delivery."""
    return LedgerEntry(
        sop_instance_uid=instance.sop_instance_uid,
        sha256=instance.file.sha256,
        sop_class_uid=instance.sop_class_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        study_instance_uid=instance.study_instance_uid,
        series_instance_uid=instance.series_instance_uid,
        bytes=instance.bytes,
        association_id=instance.file.association_id,
        calling_ae_title=instance.calling_ae_title,
        called_ae_title=instance.called_ae_title,
        peer=instance.file.peer,
        received_at=instance.received_at.isoformat(),
        delivery_id=delivery.delivery_id,
        object_key=delivery.key_of(instance, edge),
    )


def rank_of(instance: ReceivedInstance, settings: DeliverySettings) -> int:
    """Return an instance's rank: that of the first rule that fits."""
    for rule in settings.priorities:
        fits_title = rule.calling_ae_title in {None, instance.calling_ae_title}
        if fits_title and rule.modality in {None, instance.modality}:
            return rule.rank
    return 0


def read_manifest(folder: Path, edge: str) -> Manifest | None:
    """Return the note that closed a delivery; None when it is not closed.

    One that cannot be read, or is another delivery's, is renamed and the delivery is closed again: all that the note
    says besides the times and ends of associations is told by the files.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = Manifest.from_json(read_regular(path))
        if (manifest.edge, manifest.delivery) != (edge, folder.name):
            raise PermanentError("it is the manifest of another delivery")  # noqa: TRY301  # as one that is none
    except FileNotFoundError:
        return None
    except (OSError, PermanentError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        _logger.error("manifest_set_aside delivery=%s reason=%s", folder.name, reason)  # noqa: TRY400  # no bug
        path.replace(free_name(path.with_name(f"{MANIFEST_FILE}.damaged")))
        return None
    return manifest


def _uid(value: bytes | None) -> str:
    return strip_padding(value or b"")


def _digest(start: bytes, rest: BinaryIO) -> str:
    digest = hashlib.sha256(start)
    while chunk := rest.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
