"""Checks of an edge: its spool, ports, certificate, store, destinations, and an image that it receives of itself."""

import contextlib
import http.client
import secrets
import ssl
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from obstore.store import ObjectStore

from dicomflow import samples
from dicomflow.bucket.keys import probe_key
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.doctor.destinations import checks_of_destinations, folders_of_destinations
from dicomflow.doctor.findings import SELF_TEST, Check, Problem, Skip, Warn
from dicomflow.doctor.machine import (
    check_clock,
    check_folder,
    check_journal,
    check_owner,
    check_port,
    check_space,
    check_store,
    check_sync,
    leaving_no_folder,
    require_place,
)
from dicomflow.edge.mount import StoreMount
from dicomflow.edge.settings import DeliverySettings, EdgeSettings
from dicomflow.edge.stores import build_store, local_root
from dicomflow.edge.supervisor import Supervisor
from dicomflow.errors import DicomflowError, TransientError
from dicomflow.logs import LogSettings
from dicomflow.network.access import is_within
from dicomflow.network.settings import TlsSettings
from dicomflow.network.tls import TlsContexts
from dicomflow.network.users import Users
from dicomflow.regularfiles import read_regular
from dicomflow.send.association import SendAssociation
from dicomflow.send.files import read_stored_file

__all__ = ["checks_of_edge"]

# What has our port is on this machine, and answers at once or is none of ours.
_ANSWER_SECONDS: Final = 5.0
# An edge that is just being started answers when its workers run, on a busy machine after some seconds.
_START_SECONDS: Final = 60.0
_WARN_DAYS: Final = 30
_STORE_ADVICE: Final = "the edge needs s3:PutObject on the bucket, and kms:GenerateDataKey where a key is set"
_FOLDER_ADVICE: Final = (
    "mount what the folder lies on, and let the edge's user write there; or correct delivery.store_url"
)
_SELF_ADVICE: Final = "run it again with --log-level DEBUG: an edge that is started with these settings must receive"


def checks_of_edge(settings: EdgeSettings) -> Iterator[Check]:
    """Yield the checks of an edge's settings, in the order in which one needs the other."""
    folders = [settings.spool.dir, *folders_of_destinations(settings)]
    root = local_root(settings.delivery.store_url)
    if root is not None:
        folders.append((root / probe_key(settings.name)).parent)
    with leaving_no_folder(folders):
        yield from _checks(settings)


def _checks(settings: EdgeSettings) -> Iterator[Check]:
    spool, dimse, delivery = settings.spool, settings.dimse, settings.delivery
    yield Check("spool folder", lambda: check_folder(spool.dir), "repair spool.dir")
    yield Check("spool owner", lambda: check_owner(spool.dir), "repair spool.dir")
    yield Check(
        "spool space",
        lambda: check_space(spool.dir, spool.slow_below_bytes, spool.refuse_below_bytes),
        "repair spool.dir",
    )
    yield Check("spool journal", lambda: check_journal(spool.dir), "repair spool.dir")
    yield Check("spool sync", lambda: check_sync(spool.dir), "repair spool.dir")
    yield Check("DIMSE port", lambda: check_port(dimse.bind, dimse.port, lambda: _echo(settings)), "set dimse.port")
    if settings.http_port is not None:
        port = settings.http_port
        yield Check(
            "HTTP port",
            lambda: check_port(settings.http_bind, port, lambda: _health(settings.http_bind, port)),
            "set http_port",
        )
    if dimse.tls is not None:
        tls = dimse.tls
        greet = partial(_greet, settings, tls)
        yield Check("TLS port", lambda: check_port(dimse.bind, tls.port, greet), "set dimse.tls.port")
        yield Check("TLS certificate", lambda: _check_certificate(tls), "give the edge another certificate")
    if dimse.users_file is not None:
        users_file = dimse.users_file
        yield Check("users", lambda: _check_users(users_file), "repair dimse.users_file")
    advice = _STORE_ADVICE if local_root(delivery.store_url) is None else _FOLDER_ADVICE
    yield Check("store", lambda: _check_store(settings, advice), advice)
    if delivery.kms_key_id is not None:
        yield Check("KMS key", lambda: _check_key(delivery, settings.name), "repair delivery.kms_key_id")
    if local_root(delivery.store_url) is None:
        yield Check("clock", lambda: check_clock(_store(delivery), probe_key(settings.name)), "set the clock")
    yield from checks_of_destinations(settings)
    yield Check(SELF_TEST, lambda: _check_reception(settings), _SELF_ADVICE)


def _store(delivery: DeliverySettings) -> ObjectStore:
    return build_store(delivery, is_patient=False)


def _check_store(settings: EdgeSettings, advice: str) -> str:
    delivery, edge = settings.delivery, settings.name
    try:
        StoreMount(local_root(delivery.store_url), settings.spool.dir).check()
    except TransientError as error:
        raise Problem(str(error), advice) from error
    store = _store(delivery.model_copy(update={"kms_key_id": None}))
    return f"{delivery.store_url}: {check_store(store, probe_key(edge), advice)}"


def _check_key(delivery: DeliverySettings, edge: str) -> str:
    """Put an object with the key: S3 asks the KMS, in the edge's name, for a data key."""
    advice = "allow the edge kms:GenerateDataKey on the key, in its policy too; the key must be enabled, in this region"
    with contextlib.suppress(Warn):  # what an edge need not do was told of the store
        check_store(_store(delivery), probe_key(edge), advice)
    return f"S3 encrypts with {delivery.kms_key_id}"


def _echo(settings: EdgeSettings) -> str | None:
    """Ask what has the port for a C-ECHO; None when it is no DICOM receiver, or not ours."""
    dimse = settings.dimse
    host = "127.0.0.1" if dimse.bind in {"0.0.0.0", "::"} else dimse.bind  # noqa: S104  # it is compared, not bound
    try:
        with _association(host, dimse.port, settings, [(VERIFICATION, EXPLICIT_VR_LITTLE_ENDIAN)]) as association:
            return f"C-ECHO is answered {association.echo():04X}"
    except (DicomflowError, OSError) as error:
        _warn_if_turned_away(settings, host, dimse.port)
        return f"it answers DICOM: {error}" if "association" in str(error) else None


def _warn_if_turned_away(settings: EdgeSettings, host: str, port: int) -> None:
    """Raise `Warn` where an edge with these settings closes connections from this address, so that it tells nothing."""
    with contextlib.suppress(ValueError):  # a name
        if is_within(settings.dimse.networks, host):
            return
        text = f"port {port} is in use, and closes connections from {host}, as dimse.networks has an edge do"
        raise Warn(text, f"see with `ss -ltnp | grep :{port}` that it is the edge, or ask from one of the networks")


def _check_users(users_file: Path) -> str:
    bad_lines = Users(users_file).look()
    if bad_lines:
        raise Warn(
            f"{users_file}: {bad_lines} lines are not name:salt:hash and left out",
            "make them again with `dicomflow users hash NAME`; the log of this command names them",
        )
    return f"each line of {users_file} is a user"


def _health(bind: str, port: int) -> str | None:
    host = "127.0.0.1" if bind in {"0.0.0.0", "::"} else bind  # noqa: S104  # as above
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/healthz", timeout=_ANSWER_SECONDS) as answer:
            return "it is healthy" if answer.read(2) in {b"ok", b'{"'} else None
    except (OSError, http.client.HTTPException):
        return None


def _greet(settings: EdgeSettings, tls: TlsSettings) -> str | None:
    """Ask what has the TLS port for its certificate, and compare it with ours."""
    try:
        found = ssl.get_server_certificate(("127.0.0.1", tls.port), timeout=_ANSWER_SECONDS)
        ours = read_regular(tls.certificate, follow=True).decode("ascii")
    except (OSError, ValueError):
        _warn_if_turned_away(settings, "127.0.0.1", tls.port)
        return None
    return "it shows this certificate" if found.strip() in ours else None


def _check_certificate(tls: TlsSettings) -> str:
    """Load certificate, key and authorities as the edge does, and shake hands with it in memory."""
    TlsContexts(tls)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(tls.certificate, tls.key)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    # The certificate itself is trusted, whoever signed it: what is asked is whether it is of this time.
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client_context.load_verify_locations(tls.certificate)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(4):
            for side in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        advice = "get a new certificate; the edge takes it without a restart when dimse.tls.certificate changes"
        raise Problem(f"{tls.certificate}: {error.verify_message}", advice) from error
    found = client.getpeercert() or {}
    left_days = (ssl.cert_time_to_seconds(str(found["notAfter"])) - time.time()) / 86_400
    text = f"{client.version()}, valid until {found['notAfter']}"
    if left_days < _WARN_DAYS:
        raise Warn(f"{text}: {left_days:.0f} days", "renew it; the edge takes a new file without a restart")
    if tls.client_ca is None:
        text += "; clients need no certificate"
    return text


def _check_reception(settings: EdgeSettings) -> str:
    """Start an edge with these settings beside the real one, on other ports, and send it an image."""
    if settings.dimse.users_file is not None:
        raise Skip(
            "senders need a user name and a passcode, which only they know",
            "send one image from a device, or with DCMTK's storescu and its options --user and --password",
        )
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=require_place(settings.spool.dir)) as folder:
        root = Path(folder)
        trial = settings.model_copy(
            update={
                "http_port": None,
                "dimse": settings.dimse.model_copy(
                    update={"port": 0, "bind": "127.0.0.1", "tls": None, "networks": ()},
                ),
                "spool": settings.spool.model_copy(update={"dir": root / "spool", "workers": 2}),
                "delivery": DeliverySettings(store_url=(root / "objects").as_uri(), quiet_seconds=3600),
            }
        )
        supervisor = Supervisor(trial, LogSettings("ERROR", as_json=False))
        supervisor.start()
        try:
            return _send_to(supervisor.dimse_port, trial, root)
        finally:
            supervisor.stop()


def _send_to(port: int, settings: EdgeSettings, folder: Path) -> str:
    (path, *_) = samples.write(samples.ct_study(secrets.randbits(32), series=1, slices=1), folder / "image")
    file = read_stored_file(path)
    pairs = [
        (VERIFICATION, EXPLICIT_VR_LITTLE_ENDIAN),
        (file.meta.sop_class_uid, file.meta.transfer_syntax_uid),
    ]
    with _association("127.0.0.1", port, settings, pairs, _START_SECONDS) as association:
        echoed = association.echo()
        outcome = association.store(file)
    if echoed != 0 or not outcome.is_stored:
        raise Problem(f"C-ECHO is answered {echoed:04X}, C-STORE: {outcome.reason or 'stored'}", _SELF_ADVICE)
    return "C-ECHO and C-STORE are answered 0000, the image is on disk"


def _association(
    host: str, port: int, settings: EdgeSettings, pairs: list[tuple[str, str]], seconds: float = _ANSWER_SECONDS
) -> SendAssociation:
    """Associate as somebody whom the settings admit."""
    dimse = settings.dimse
    return SendAssociation(
        host,
        port,
        pairs,
        calling_ae_title=next(iter(dimse.calling_ae_titles), "DOCTOR"),
        called_ae_title=next(iter(dimse.called_ae_titles), dimse.ae_title),
        timeout_seconds=seconds,
    )
