"""The conformance statement of one edge, as its settings have it: its roles with their peers, its limits, its tables.

Addresses are shown, since who connects a device needs them; secrets are in none of the settings that are read here.
"""

from collections.abc import Iterable

from dicomflow import __version__
from dicomflow.edge.conformance import render, table
from dicomflow.edge.destinations import Destination
from dicomflow.edge.settings import EdgeSettings

__all__ = ["statement_of"]

_ROLES = ("Service", "Role", "With", "What")
_TABLES = (
    ("Association policies", "association"),
    ("Storage SOP classes", "sop-classes"),
    ("Transfer syntaxes", "transfer-syntaxes"),
    ("Transfer syntaxes that are refused", "refused-transfer-syntaxes"),
    ("Rejections", "rejections"),
    ("Aborts", "aborts"),
    ("Answers to C-STORE", "store-status"),
)


def statement_of(settings: EdgeSettings) -> str:
    """Return the statement of an edge with these settings, as Markdown, in the order of PS3.2 Annex N."""
    parts = [
        f"# DICOM conformance statement of the edge {settings.name}\n",
        f"dicomflow {__version__}, as it is set up; what holds for every edge stands in docs/conformance.md.\n",
        "## Roles\n\n" + table(_ROLES, _roles(settings)),
        "## Where it is reached\n\n" + table(("What", "Value"), _reached(settings)),
    ]
    parts += [f"## {title}\n\n<!-- table: {name} -->\n<!-- end -->" for title, name in _TABLES]
    return _without_marks(render("\n".join(parts) + "\n", settings.dimse))


def _without_marks(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("<!-- "))


def _roles(settings: EdgeSettings) -> Iterable[tuple[str, ...]]:
    dimse = settings.dimse
    senders = _titles(dimse.calling_ae_titles) + (f", from {_listed(dimse.networks)}" if dimse.networks else "")
    yield "Verification", "SCP", senders, "C-ECHO"
    yield "Storage", "SCP", senders, "every storage SOP class; 0000 when the instance is durable"
    for title, peer in settings.commitment.peers.items():
        what = f"level {settings.commitment.level}; reports to {peer.host} port {peer.port}"
        yield "Storage Commitment Push Model", "SCP", title, what
    for title, asker in settings.archive.peers.items() if settings.archive.dicomweb_url else ():
        rights = [name for name in ("query", "retrieve") if getattr(asker, name)]
        yield "Query/Retrieve, Patient Root and Study Root", "SCP", title, f"may {' and '.join(rights) or 'nothing'}"
    for name, node in settings.destinations.items():
        if not isinstance(node, Destination):
            continue  # a store speaks no DICOM
        where = f"{node.ae_title} at {node.host} port {node.port}" + (", TLS" if node.tls else "")
        yield "Storage", "SCU", where, f"destination {name}, up to {node.associations} associations"
        if node.commitment:
            yield (
                "Storage Commitment Push Model",
                "SCU",
                where,
                f"destination {name}, within {node.commitment_hours:g} h",
            )
    for name, source in settings.sources.items():
        where = f"{source.ae_title} at {source.host} port {source.port}" + (", TLS" if source.tls else "")
        yield "Query/Retrieve, Study Root: C-FIND", "SCU", where, f"source {name}"
        how = f"C-MOVE to {source.move_destination}" if source.move_destination else "C-GET"
        yield f"Query/Retrieve, Study Root: {how}", "SCU", where, f"source {name}"


def _reached(settings: EdgeSettings) -> Iterable[tuple[str, str]]:
    dimse = settings.dimse
    yield "AE title", dimse.ae_title
    yield "Called AE titles that are answered", _titles(dimse.called_ae_titles)
    yield "Calling AE titles that are answered", _titles(dimse.calling_ae_titles)
    yield "Networks that are answered", _listed(dimse.networks) or "any"
    yield "Port", f"{dimse.port} on {dimse.bind}"
    if dimse.tls is not None:
        client = "; a client certificate is needed" if dimse.tls.client_ca is not None else ""
        yield "TLS port", f"{dimse.tls.port}{client}"
    yield "User identity", "user name and passcode are needed" if dimse.users_file is not None else "not asked for"


def _titles(titles: Iterable[str]) -> str:
    return _listed(titles) or "any"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
