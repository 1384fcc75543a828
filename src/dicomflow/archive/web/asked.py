"""One request for stored instances, as each of the answers to it sees it."""

from dataclasses import dataclass

from starlette.requests import Request

from dicomflow.archive.archive import Archive
from dicomflow.archive.retrieval import StoredInstance
from dicomflow.archive.web.media import MediaRange, accepted

__all__ = ["Asked"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and the instances that it names: at least one."""

    archive: Archive
    request: Request
    base_url: str
    instances: list[StoredInstance]

    @property
    def ranges(self) -> list[MediaRange]:
        """What is accepted; the query parameter goes before the header (PS3.18 8.3.3.1, 8.7.8)."""
        header = self.request.query_params.get("accept") or ",".join(self.request.headers.getlist("accept"))
        return accepted(header)

    def url_of(self, instance: StoredInstance) -> str:
        """Return the address of an instance."""
        return (
            f"{self.base_url}/studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}"
            f"/instances/{instance.sop_instance_uid}"
        )
