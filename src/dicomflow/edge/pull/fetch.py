"""Fetching: the source sends to this edge's own receiver, by C-MOVE, or through here by C-GET.

What arrived is not judged here, and neither is what the source says of it: the caller looks at what is there.
"""

import contextlib
import logging
import ssl
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomflow.dicom.part10 import decode_file_meta, encode_file_meta
from dicomflow.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    is_usable,
)
from dicomflow.dimse.identifier import Tag, uid_list
from dicomflow.dimse.items import Role
from dicomflow.dimse.pdu import MAX_CONTEXTS
from dicomflow.dimse.status import Status
from dicomflow.edge.settings import EdgeSettings, Source
from dicomflow.edge.spool.passing import PassingFile
from dicomflow.errors import DicomflowError, PermanentError
from dicomflow.network.querying import QueryAssociation, Retrieved
from dicomflow.network.requesting import propose
from dicomflow.network.settings import ClientTls
from dicomflow.network.tls import client_context
from dicomflow.send.association import SendAssociation
from dicomflow.send.files import StoredFile

__all__ = ["MOST_UIDS", "Peer", "Wanted", "fetch_by_get", "fetch_by_move", "peer_of"]

# A list of UIDs has at most 65,534 bytes in Explicit VR (PS3.5 7.1.2).
MOST_UIDS: Final = 500
_SERVICE_SYNTAXES: Final = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)
_HEAD_BYTES: Final = 4096
_LOCAL: Final = "127.0.0.1"
# PS3.5 A: each in a context of its own, so that the source need not re-encode what it has.
_SYNTAXES: Final = tuple(
    IMPLICIT_VR_LITTLE_ENDIAN + last
    for last in (
        *(".1", "", ".1.99", ".2", ".4.50", ".4.51", ".4.57", ".4.70", ".4.80", ".4.81", ".4.90", ".4.91"),
        *(".4.100", ".4.101", ".4.102", ".4.103", ".4.107", ".4.201", ".4.203", ".5"),
    )
)
# PS3.4 B.5: projection, sectional and nuclear images, ultrasound, visible light, documents, presentation, radiotherapy.
_USUAL_CLASSES: Final = tuple(
    f"1.2.840.10008.5.1.4.1.1.{last}"
    for last in """
    2 2.1 4 4.1 1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 13.1.3 12.1 12.1.1 12.2 12.2.1 20 128 130 6.1 3.1 7 7.1 7.2 7.3 7.4
    77.1.1 77.1.1.1 77.1.2 77.1.4 77.1.4.1 77.1.5.1 77.1.5.2 77.1.5.4 77.1.6 88.11 88.22 88.33 88.59 88.67 104.1 11.1
    66 66.1 66.4 9.1.1 9.1.2 481.1 481.2 481.3 481.5
    """.split()  # noqa: SIM905  # one line for each quoted string would take fifty
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """A source as its associations need it, and our own receiver for what comes by C-GET."""

    name: str
    source: Source
    calling_ae_title: str
    tls: ssl.SSLContext | None
    receiver: tuple[str, int]
    receiver_ae_title: str
    spool: Path

    def for_queries(self) -> QueryAssociation:
        """Return an association for questions, and for moves where there is a destination."""
        classes = [STUDY_ROOT_FIND, *([STUDY_ROOT_MOVE] if self.source.move_destination else [])]
        return self._association([(each, _SERVICE_SYNTAXES) for each in classes], ())

    def for_get(self, sop_class_uids: Sequence[str]) -> QueryAssociation:
        """Return an association by which objects of these classes can come (PS3.4 C.5.3)."""
        pairs: list[tuple[str, Sequence[str]]] = [(STUDY_ROOT_GET, _SERVICE_SYNTAXES)]
        if len(sop_class_uids) * len(_SYNTAXES) < MAX_CONTEXTS:
            pairs += [(each, (syntax,)) for each in sop_class_uids for syntax in _SYNTAXES]
        else:
            pairs += [(each, _SYNTAXES[:2]) for each in sop_class_uids]
            pairs += [(each, _SYNTAXES[4:]) for each in sop_class_uids]
        roles = tuple(Role(each, scu=False, scp=True) for each in sop_class_uids)
        return self._association(pairs[:MAX_CONTEXTS], roles)

    def _association(self, pairs: Sequence[tuple[str, Sequence[str]]], roles: tuple[Role, ...]) -> QueryAssociation:
        return QueryAssociation(
            self.source.host,
            self.source.port,
            propose(pairs),
            calling_ae_title=self.calling_ae_title,
            called_ae_title=self.source.ae_title,
            timeout_seconds=self.source.timeout_seconds,
            roles=roles,
            tls=self.tls,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be fetched: a study, a series, or some images of a series, whose SOP classes are known or not."""

    study_uid: str
    series_uid: str = ""
    uids: tuple[str, ...] = ()
    sop_class_uids: tuple[str, ...] = ()

    def keys(self) -> dict[int, bytes]:
        """Return level and unique keys, and nothing else (PS3.4 C.4.2.1.4)."""
        keys = {Tag.QUERY_RETRIEVE_LEVEL: b"STUDY", Tag.STUDY_INSTANCE_UID: self.study_uid.encode("ascii")}
        if self.series_uid:
            keys |= {Tag.QUERY_RETRIEVE_LEVEL: b"SERIES", Tag.SERIES_INSTANCE_UID: self.series_uid.encode("ascii")}
        if self.uids:
            keys |= {Tag.QUERY_RETRIEVE_LEVEL: b"IMAGE", Tag.SOP_INSTANCE_UID: uid_list(self.uids)}
        return keys


def peer_of(name: str, settings: EdgeSettings) -> Peer:
    """Return a source of the settings.

    Raises:
        PermanentError: there is none of that name, or the files of its TLS do not load.
    """
    source = settings.sources.get(name)
    if source is None:
        known = ", ".join(settings.sources) or "none"
        raise PermanentError(f"the settings have no [sources.{name}]; they have {known}")
    dimse = settings.dimse
    tls = source.tls
    try:
        context = client_context(tls if isinstance(tls, ClientTls) else ClientTls()) if tls else None
    except PermanentError as error:
        raise PermanentError(f"sources.{name}: {error}") from error
    host = _LOCAL if dimse.bind in {"0.0.0.0", "::"} else dimse.bind  # noqa: S104  # it is compared
    return Peer(
        name,
        source,
        source.calling_ae_title or dimse.ae_title,
        context,
        (host, dimse.port),
        dimse.called_ae_titles[0] if dimse.called_ae_titles else dimse.ae_title,
        settings.spool.dir,
    )


def fetch_by_move(
    association: QueryAssociation, peer: Peer, wanted: Wanted, go_on: Callable[[Retrieved | None], bool]
) -> Retrieved:
    """C-MOVE to the destination by which the source knows this edge; errors as of `QueryAssociation.move`."""
    assert peer.source.move_destination is not None
    return association.move(wanted.keys(), peer.source.move_destination, go_on=go_on)


def fetch_by_get(peer: Peer, wanted: Wanted, go_on: Callable[[Retrieved | None], bool]) -> Retrieved:
    """C-GET, each object of which is answered what our own receiver answers.

    Raises:
        PermanentError: the source takes no C-GET, or grants us no role for any class.
        TransientError: an association broke.
        PeerError: as of `QueryAssociation.find`.
    """
    # Some servers do not tell the classes of their images: then what is most often stored is proposed.
    classes = [each for each in dict.fromkeys(wanted.sop_class_uids) if is_usable(each)] or list(_USUAL_CLASSES)
    with peer.for_get(classes) as association, contextlib.closing(_ToReceiver(peer, association.accepted())) as sink:
        if not any(map(association.is_scp_of, classes)):
            raise PermanentError("the source grants the role of SCP for none of the images' SOP classes")
        return association.get(wanted.keys(), sink, go_on=go_on)


class _ToReceiver:
    """Hands on each object of a C-GET to our own receiver, and answers what that answers. Thread: one owner."""

    def __init__(self, peer: Peer, accepted: Mapping[tuple[str, str], int]) -> None:
        self._peer = peer
        self._pairs = [pair for pair in accepted if pair[0] != STUDY_ROOT_GET]
        self._association: SendAssociation | None = None
        self._file: PassingFile | None = None
        self._problem = False

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> None:
        """Open a file for the object."""
        self._problem = True
        if not is_usable(sop_class_uid) or not is_usable(sop_instance_uid):
            return
        try:
            head = encode_file_meta(
                *(sop_class_uid, sop_instance_uid, transfer_syntax_uid, self._peer.source.ae_title, "DICOMFLOW")
            )
            self._head = head
            self._file = PassingFile(self._peer.spool, uuid.uuid4().hex)
            self._file.write(head)
        except (OSError, ValueError) as error:
            _logger.warning("object_not_passed error=%s", type(error).__name__)
        else:
            self._problem = False

    def write(self, data: memoryview) -> None:
        """Write on; a full volume is told at the end."""
        if self._problem or self._file is None:
            return
        try:
            self._file.write(data)
        except OSError:
            self._problem = True

    def finish(self) -> int:
        """Send the file to our receiver; whatever is not stored there is refused here."""
        file, self._file = self._file, None
        if file is None:
            return Status.CANNOT_UNDERSTAND
        try:
            size = file.close()
            if self._problem:
                return Status.OUT_OF_RESOURCES
            stored = StoredFile(file.path, decode_file_meta(self._head[:_HEAD_BYTES]), size)
            outcome = self._receiver().store(stored)
        except (DicomflowError, OSError) as error:
            self.close()
            _logger.warning("object_not_passed error=%s", type(error).__name__)
            return Status.OUT_OF_RESOURCES
        finally:
            file.remove()
        return Status.OUT_OF_RESOURCES if outcome.status is None else outcome.status

    def close(self) -> None:
        """End the association to our receiver, and remove an object that did not come whole."""
        if self._file is not None:
            self._file.remove()
            self._file = None
        if self._association is not None:
            self._association.__exit__(None)
            self._association = None

    def _receiver(self) -> SendAssociation:
        if self._association is None:
            host, port = self._peer.receiver
            association = SendAssociation(
                *(host, port, self._pairs),
                calling_ae_title=self._peer.source.ae_title,
                called_ae_title=self._peer.receiver_ae_title,
                timeout_seconds=self._peer.source.timeout_seconds,
            )
            self._association = association.__enter__()
        return self._association
