"""Checks of an edge's destinations: each is asked as it is when something is sent there, and none gets an image."""

from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final

from urllib3.exceptions import HTTPError

from dicomflow.bucket.keys import probe_key
from dicomflow.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicomflow.doctor.findings import Check, Problem, Warn
from dicomflow.doctor.machine import check_store
from dicomflow.edge.destinations import AnyDestination, Destination, StoreDestination, StowDestination
from dicomflow.edge.forward.process import delivery_of
from dicomflow.edge.forward.stowing import authorization_of, pool_of
from dicomflow.edge.mount import StoreMount
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool.layout import Layout
from dicomflow.edge.stores import build_store, local_root
from dicomflow.edge.transfer.process import routes_of
from dicomflow.errors import DicomflowError
from dicomflow.send.association import SendAssociation

__all__ = ["checks_of_destinations", "folders_of_destinations"]

_ANSWER_SECONDS: Final = 10.0
_OPTIONAL_ADVICE: Final = "it is not required: what it has not taken in its keep_days is given up"
# Of an origin that has the resource, and not this method.
_WITHOUT_OPTIONS: Final = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


def checks_of_destinations(settings: EdgeSettings) -> Iterator[Check]:
    """Yield a check of each destination; of one that is not required a warning is the worst."""
    for name, destination in settings.destinations.items():
        match destination:
            case Destination():
                look = partial(_check_node, settings, name, destination)
                advice = (
                    f"correct host, port, ae_title and tls of destinations.{name}, or have the node admit this edge"
                )
            case StoreDestination():
                look = partial(_check_store, settings, name, destination)
                advice = f"correct url and credentials of destinations.{name}; they need s3:PutObject below its prefix"
            case StowDestination():
                look = partial(_check_origin, destination)
                advice = f"correct url, authorization_file and ca_certificate of destinations.{name}"
        yield Check(f"to {name}", partial(_judged, destination, look, advice), advice)


def folders_of_destinations(settings: EdgeSettings) -> list[Path]:
    """Return the folders that the checks may make."""
    stores = [each for each in settings.destinations.values() if isinstance(each, StoreDestination)]
    roots = [(local_root(each.url), each.prefix + probe_key(settings.name)) for each in stores]
    return [(root / key).parent for root, key in roots if root is not None]


def _judged(destination: AnyDestination, look: "partial[str]", advice: str) -> str:
    try:
        return look()
    except Warn:
        raise
    except (Problem, DicomflowError, OSError) as error:
        advice = error.advice if isinstance(error, Problem) else advice
        if destination.required:
            raise Problem(str(error), advice) from error
        raise Warn(str(error), f"{advice}; {_OPTIONAL_ADVICE}") from error


def _check_node(settings: EdgeSettings, name: str, destination: Destination) -> str:
    """Ask for a C-ECHO, under the title and with the TLS by which images are sent."""
    (route,) = routes_of(settings, {name: destination})
    with SendAssociation(
        destination.host,
        destination.port,
        [(VERIFICATION, EXPLICIT_VR_LITTLE_ENDIAN), (VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)],
        calling_ae_title=route.calling_ae_title,
        called_ae_title=destination.ae_title,
        timeout_seconds=min(destination.timeout_seconds, _ANSWER_SECONDS),
        tls=route.tls,
    ) as association:
        if not association.accepted():
            return f"it admits {route.calling_ae_title}, and has no C-ECHO"
        status = association.echo()
    if status != 0:
        raise Problem(f"C-ECHO is answered {status:04X}", f"look into the log of {destination.ae_title}")
    return "C-ECHO is answered 0000"


def _check_store(settings: EdgeSettings, name: str, destination: StoreDestination) -> str:
    root, delivery = local_root(destination.url), delivery_of(destination)
    StoreMount(root, Layout(settings.spool.dir).destinations / name).check()
    advice = f"let destinations.{name} be written to: s3:PutObject on the bucket, or the edge's user in the folder"
    key = destination.prefix + probe_key(settings.name)
    return f"{destination.url}: {check_store(build_store(delivery, is_patient=False), key, advice)}"


def _check_origin(destination: StowDestination) -> str:
    """Ask for its options, which tells nothing of a patient and stores nothing."""
    with pool_of(destination, _ANSWER_SECONDS) as pool:
        try:
            response = pool.request(
                "OPTIONS", f"{destination.url.rstrip('/')}/studies", headers=authorization_of(destination)
            )
        except HTTPError as error:
            raise Problem(
                f"it does not answer: {type(error).__name__}", "look at its url, certificate, proxy and firewall"
            ) from error
    if response.status < HTTPStatus.BAD_REQUEST or response.status in _WITHOUT_OPTIONS:
        return f"it answers; OPTIONS with status {response.status}"
    if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise Problem(f"it refuses this edge with status {response.status}", "exchange what authorization_file has")
    raise Warn(f"OPTIONS is answered with status {response.status}", "see that its url is the one before /studies")
