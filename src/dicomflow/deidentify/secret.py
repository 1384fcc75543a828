"""Where a site's secret comes from: the environment, and below it the edge's settings."""

import os
from typing import Final

from pydantic import SecretStr

__all__ = ["SECRET_VARIABLE", "site_secret"]

SECRET_VARIABLE: Final = "DICOMFLOW_SITE_SECRET"  # noqa: S105  # its name


def site_secret(settings: SecretStr | None) -> str | None:
    """Return the secret; None where there is none. It stands in no log, no error and no file that is delivered."""
    return os.environ.get(SECRET_VARIABLE) or (None if settings is None else settings.get_secret_value())
