"""Whether JSON is wanted (PS3.18 8.7.5): by the query parameter `accept`, which goes before the header."""

from starlette.exceptions import HTTPException
from starlette.requests import Request

__all__ = ["DICOM_JSON", "json_type_of"]

DICOM_JSON = "application/dicom+json"
_TYPES = {
    DICOM_JSON: DICOM_JSON,
    "application/json": "application/json",
    "application/*": DICOM_JSON,
    "*/*": DICOM_JSON,
}


def json_type_of(request: Request) -> str:
    """Return the type to answer in: the first that is asked for of those there are, whatever else is listed.

    Raises:
        HTTPException: 406, something else alone is asked for.
    """
    asked = request.query_params.get("accept") or request.headers.get("accept", "*/*")
    for media_range in asked.split(","):
        name, _, parameters = media_range.partition(";")
        is_refused = any(part.strip().replace(" ", "") in {"q=0", "q=0.0"} for part in parameters.split(";"))
        found = _TYPES.get(name.strip().lower().strip('"'))
        if found is not None and not is_refused:
            return found
    raise HTTPException(406, f"a search is answered in {DICOM_JSON} or application/json")
