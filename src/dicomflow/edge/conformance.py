"""The tables of the conformance statement, made from what the program runs on (PS3.2 Annex N).

`python -m dicomflow.edge.conformance docs/conformance.md` writes them between the document's markers; a test holds
that the document has the tables of this version. What a table says beyond codes stands here beside the code's names.
"""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from pydicom._uid_dict import UID_dictionary

from dicomflow.dicom.uids import (
    APPLICATION_CONTEXT,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    is_storage_sop_class,
    is_storage_transfer_syntax,
)
from dicomflow.dimse.message import MAX_SENT_PDU_BYTES
from dicomflow.dimse.pdu import MAX_CONTEXTS, AbortSource, AssociateReject
from dicomflow.dimse.status import AbortReason, Rejection
from dicomflow.edge.receive.storage import REFUSALS
from dicomflow.edge.settings import CommitmentSettings
from dicomflow.network.settings import DimseSettings, TlsSettings
from dicomflow.network.tls import CIPHERS

__all__ = ["render", "table"]

_MARKED: Final = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_REJECTIONS: Final = {
    "NO_REASON": "the requestor's maximum length is 1 to 7: no room for a fragment",
    "APPLICATION_CONTEXT": "unknown application context name",
    "CALLING_AE_TITLE": "empty, or not in `calling_ae_titles`",
    "CALLED_AE_TITLE": "not in `called_ae_titles`",
    "USER_IDENTITY": "`users_file` is set, and user name or passcode is missing or wrong",
    "PROTOCOL_VERSION": "bit 0 of the protocol version is not set",
    "TEMPORARY_CONGESTION": "the edge is stopping",
    "LOCAL_LIMIT": "`max_associations` or `max_associations_per_ae_title` is reached, or free space is below"
    " `refuse_below_bytes` and storage is proposed",
}
_ABORTS: Final = (
    (
        AbortSource.USER,
        "NOT_SPECIFIED",
        "no PDU, or too little of a message, for `idle_seconds`, or the edge is stopping",
    ),
    (
        AbortSource.USER,
        "NOT_SPECIFIED",
        "an association request or a command set that cannot be decoded, or a response",
    ),
    (AbortSource.PROVIDER, "UNRECOGNIZED_PDU", "a PDU of unknown type"),
    (AbortSource.PROVIDER, "UNEXPECTED_PDU", "a PDU that the state does not allow (PS3.8 9.2)"),
    (AbortSource.PROVIDER, "UNEXPECTED_PARAMETER", "a fragment on a presentation context that was not accepted"),
    (AbortSource.PROVIDER, "UNEXPECTED_PARAMETER", "fragments of command set and data set that do not alternate"),
    (AbortSource.PROVIDER, "INVALID_PARAMETER_VALUE", "a length that runs past its container, or is over a limit"),
)


def render(document: str, dimse: DimseSettings | None = None) -> str:
    """Return the document with each marked table as this version has it, with these settings or the defaults."""
    settings = dimse or DimseSettings()

    def made(found: re.Match[str]) -> str:
        return _association(settings) if found[2] == "association" else _TABLES[found[2]]()

    return _MARKED.sub(lambda found: f"{found[1]}{made(found)}{found[3]}", document)


# Of a newer edition than pydicom's registry; other libraries add them to it when they are imported.
_NEWER: Final = {
    "1.2.840.10008.1.2.4.110": ("JPEG XL Lossless", "Transfer Syntax"),
    "1.2.840.10008.1.2.4.111": ("JPEG XL JPEG Recompression", "Transfer Syntax"),
    "1.2.840.10008.1.2.4.112": ("JPEG XL", "Transfer Syntax"),
    "1.2.840.10008.1.2.8.1": ("Deflated Image Frame Compression", "Transfer Syntax"),
}


# PS3.6 has withdrawn their names with them.
_NAMELESS: Final = {
    "1.2.840.10008.5.1.4.1.1.12.77": "Zeiss OPT File (retired)",
    "1.2.840.10008.5.1.4.1.1.40": "MR Image Storage Zero Padded (retired)",
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown."""
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _registered(kind: str, is_wanted: Callable[[str], bool]) -> list[tuple[str, str]]:
    entries = {
        uid: (name or _NAMELESS.get(uid, "without a name (retired)"), found)
        for uid, (name, found, *_) in UID_dictionary.items()
    } | _NEWER
    return sorted((uid, name) for uid, (name, found) in entries.items() if found == kind and is_wanted(uid))


def _sop_classes() -> str:
    rows = [(name, f"`{uid}`", "yes", "yes") for uid, name in _registered("SOP Class", is_storage_sop_class)]
    return table(("SOP class", "UID", "SCU", "SCP"), rows)


def _transfer_syntaxes() -> str:
    rows = [(name, f"`{uid}`") for uid, name in _registered("Transfer Syntax", is_storage_transfer_syntax)]
    return table(("Transfer syntax", "UID"), rows)


def _refused_transfer_syntaxes() -> str:
    refused = _registered("Transfer Syntax", lambda uid: not is_storage_transfer_syntax(uid))
    return table(("Transfer syntax", "UID"), [(name, f"`{uid}`") for uid, name in refused])


def _association(settings: DimseSettings) -> str:
    most = settings.max_associations_per_ae_title
    rows = [
        ("Application context name", f"`{APPLICATION_CONTEXT}`"),
        ("Implementation class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
        ("Implementation version name", f"`{IMPLEMENTATION_VERSION_NAME}`"),
        ("Maximum length announced", f"{settings.max_pdu_bytes:,} bytes (`max_pdu_bytes`; 0 is unlimited)"),
        ("Longest PDU sent", f"{MAX_SENT_PDU_BYTES:,} bytes, or what the peer announces"),
        ("Presentation contexts", f"up to {MAX_CONTEXTS}"),
        ("Associations at once", f"{settings.max_associations:,} (`max_associations`)"),
        ("Associations of one AE title", f"{most:,}" if most else "no limit (`max_associations_per_ae_title`)"),
        ("Asynchronous operations window", "1 invoked, 1 performed, when the item is offered"),
        ("ARTIM", f"{settings.artim_seconds:g} s (`artim_seconds`)"),
        ("Idle association", f"aborted after {settings.idle_seconds:g} s without a PDU (`idle_seconds`)"),
    ]
    return table(("Parameter", "Value"), rows)


def _configuration() -> str:
    dimse, commitment = DimseSettings(), CommitmentSettings()
    tls_port = TlsSettings.model_fields["port"].default
    rows = [
        ("AE title", f"`dimse.ae_title`, {dimse.ae_title}; any called AE title is answered unless limited"),
        ("Port", f"`dimse.port`, {dimse.port}"),
        ("TLS port", f"`dimse.tls.port`, {tls_port}, when `dimse.tls` is set"),
        ("Called AE titles", "`dimse.called_ae_titles`, any"),
        ("Calling AE titles", "`dimse.calling_ae_titles`, any"),
        ("Networks", "`dimse.networks`, any"),
        ("Storage commitment", f"`commitment.level`, {commitment.level}"),
        ("Nodes that images are sent back to", "`destinations`, none"),
        ("Archives that are queried and retrieved from", "`sources`, none"),
    ]
    return table(("What", "Setting and default"), rows)


def _rejections() -> str:
    rows = []
    for name, condition in _REJECTIONS.items():
        reject: AssociateReject = getattr(Rejection, name)
        rows.append((str(reject.result), str(reject.source), str(reject.reason), condition))
    return table(("Result", "Source", "Reason", "Condition"), rows)


def _aborts() -> str:
    rows = [(str(int(source)), str(int(AbortReason[name])), condition) for source, name, condition in _ABORTS]
    return table(("Source", "Reason", "Condition"), rows)


def _store_status() -> str:
    rows = [("Success", "0000", "", "the instance is durable in the spool")]
    for refusal in sorted(REFUSALS.values(), key=lambda each: each.status):
        elements = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in refusal.offending_elements)
        rows.append(("Failure", f"{refusal.status:04X}", elements, refusal.comment))
    return table(("Service status", "Code", "Offending element (0000,0901)", "Error comment (0000,0902)"), rows)


def _ciphers() -> str:
    return table(("Cipher suite of TLS 1.2",), [(f"`{name}`",) for name in CIPHERS.split(":")])


_TABLES: Final[dict[str, Callable[[], str]]] = {
    "sop-classes": _sop_classes,
    "transfer-syntaxes": _transfer_syntaxes,
    "refused-transfer-syntaxes": _refused_transfer_syntaxes,
    "configuration": _configuration,
    "rejections": _rejections,
    "aborts": _aborts,
    "store-status": _store_status,
    "ciphers": _ciphers,
}

if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(render(target.read_text(encoding="utf-8")), encoding="utf-8")
