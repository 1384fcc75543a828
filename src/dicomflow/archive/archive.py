"""What an archive is made of; the protocols that speak it are made from this."""

from dataclasses import dataclass

from dicomflow.archive.access import Audit
from dicomflow.archive.pixels.conversions import Conversions
from dicomflow.archive.query import Query
from dicomflow.archive.retrieval import Retrieval

__all__ = ["Archive"]


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive; `ae_title` is what others retrieve from it by."""

    query: Query
    retrieval: Retrieval
    conversions: Conversions
    audit: Audit
    ae_title: str
