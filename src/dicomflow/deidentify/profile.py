"""A profile in force: settings bound to a site's secret and a recipient, with the lookup table of project IDs."""

import csv
import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dicomflow.deidentify.pseudonyms import Pseudonyms
from dicomflow.deidentify.settings import BASIC, BUILT_IN, ProfileSettings
from dicomflow.errors import PermanentError

__all__ = ["Profile", "load_profile"]

_COLUMNS = 2


@dataclass(frozen=True, slots=True)
class Profile:
    """What copies for one recipient are made by; `projects` has the project ID of each Patient ID, or is None."""

    name: str
    settings: ProfileSettings
    pseudonyms: Pseudonyms = field(repr=False)
    projects: Mapping[str, str] | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """What the site has set of it, as a name: that of another setting is another one."""
        told = self.settings.model_dump_json() + json.dumps(self.projects, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


def load_profile(name: str, profiles: Mapping[str, ProfileSettings], *, secret: str, domain: str = BASIC) -> Profile:
    """Return the profile of a name.

    Args:
        name: of one of `profiles`, or `basic`.
        profiles: those of the settings.
        secret: the site's, of at least 32 bytes.
        domain: the recipient's name: the same object maps otherwise for another one.

    Raises:
        PermanentError: there is no such profile, the secret is too short, or the lookup table cannot be read.
    """
    settings = {**BUILT_IN, **profiles}.get(name)
    if settings is None:
        raise PermanentError(f"no profile {name!r}: there are {', '.join(sorted({*BUILT_IN, *profiles}))}")
    projects = None if settings.lookup is None else _read_lookup(settings.lookup)
    return Profile(name, settings, Pseudonyms(secret, domain), projects)


def _read_lookup(path: Path) -> Mapping[str, str]:
    """Read lines of Patient ID and project ID; no line's content stands in an error."""
    found: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row:
                    continue
                if len(row) != _COLUMNS or not all(cell.strip() for cell in row):
                    raise PermanentError(f"line {number} of the lookup table has not two values")
                patient, project = (unicodedata.normalize("NFC", cell.strip()) for cell in row)
                if not project.isascii() or "\\" in project or len(project) > 64 or not project.isprintable():
                    raise PermanentError(
                        f"line {number} of the lookup table: a project ID is up to 64 ASCII characters"
                    )
                if found.setdefault(patient, project) != project:
                    raise PermanentError(f"line {number} of the lookup table gives a patient another project ID")
    except OSError as error:
        raise PermanentError(f"the lookup table {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise PermanentError(f"the lookup table {path} is no CSV in UTF-8") from error
    return found
