"""Deleting a study from the catalog, and its objects if that is wanted: asked for twice, by an admin, and audited."""

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from dicomflow.console.access import Role
from dicomflow.console.guard import wants_json
from dicomflow.console.page import Context, Page, require_role
from dicomflow.errors import InternalError, PermanentError, TransientError
from dicomflow.pipeline.deletion import Deletion, StudyToDelete, find_study

__all__ = ["ask", "delete"]


def ask(context: Context, request: Request) -> Page:
    """Say what would go, and ask whether it shall."""
    require_role(request, Role.ADMIN)
    study = _find(context, request.path_params["uid"])
    document = {"uid": study.uid, "objects": len(study.keys), "image_sets": len(study.image_sets)}
    return Page("delete.html", document)


def delete(context: Context, request: Request, form: Mapping[str, str]) -> Response:
    """Delete it; the form's token and the user's role are checked before this."""
    study = _find(context, request.path_params["uid"])
    if form.get("sure") != "yes":
        raise HTTPException(400, "the form does not say that you are sure")
    deletion = Deletion(
        context.engine,
        lambda: ("", context.store),
        _no_client,
        request.state.user,
        *context.site_settings(),
        context.clock,
    )
    deleted = deletion.delete(study, objects=form.get("objects") == "yes", image_sets=False)
    if wants_json(request):
        return JSONResponse({"deleted": study.uid, "objects": deleted.objects})
    return RedirectResponse("/studies", status_code=303)


def _no_client() -> Any:  # never called: image sets are left
    raise InternalError("the console deletes no image sets")


def _find(context: Context, uid: str) -> StudyToDelete:
    try:
        return find_study(context.engine, uid)
    except PermanentError as error:
        raise HTTPException(404, str(error)) from error
    except TransientError as error:
        raise HTTPException(409, str(error)) from error
