"""A share whose files are de-identified copies of what was received: what is sent are these, what is told of are those.

```
destinations/{name}/secret                    the name of the secret that copies are made with
destinations/{name}/{delivery}/copies.json    the copies by the numbers of their originals, once all are made
destinations/{name}/{delivery}/{number}.copy  a copy, until it is sent
```

A copy is on disk before `copies.json` names it. Which original it is of is nowhere but here, at the site.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final

from dicomflow.bucket.documents import Format, Text, WholeNumber
from dicomflow.bucket.manifest import Instance, Manifest, Series, Study
from dicomflow.edge.spool.durable import write_note
from dicomflow.edge.spool.handedover import SharedDelivery
from dicomflow.edge.spool.names import SUFFIX
from dicomflow.regularfiles import read_regular

__all__ = ["CopiedDelivery", "Copies", "Copy"]

_COPIES_FILE: Final = "copies.json"
_VERSION: Final = 1
# In the place of times: when something was received tells of when it was made.
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Copy:
    """What came of one original: with `reason` there is no copy, and the UIDs are empty."""

    number: WholeNumber
    study_instance_uid: Text
    series_instance_uid: Text
    sop_instance_uid: Text
    sop_class_uid: Text
    transfer_syntax_uid: Text
    bytes: WholeNumber
    sha256: Text
    reason: Text = ""


@dataclass(frozen=True, slots=True)
class Copies:
    """All copies of one share.

    `delivery` is the name that the recipient knows it by, and `profile` the digest of that which they were made with.
    """

    delivery: Text
    copies: tuple[Copy, ...]
    profile: Text = ""


_FORMAT: Final = Format(Copies, "copies of version", _VERSION)


class CopiedDelivery(SharedDelivery):
    """A share of copies. Its numbers are those of the originals, so that what is told of them is told of those."""

    @property
    def is_made(self) -> bool:
        """Tell whether all copies are made."""
        return (self.path / _COPIES_FILE).is_file()

    def note(self, copies: Copies) -> None:
        """Durable: say that these are all copies, whose files are on disk. Raises `OSError`."""
        write_note(self.path / _COPIES_FILE, _FORMAT.encode(copies), fsync=self._fsync)

    @cached_property
    def copies(self) -> Copies:
        """What was noted. Raises `OSError`, or `PermanentError` when it is damaged."""
        return _FORMAT.decode(read_regular(self.path / _COPIES_FILE))

    @cached_property
    def instances(self) -> tuple[Instance, ...]:
        """The copies by the numbers of their originals; where there is none, the original. Raises as `copies` does."""
        copies = {each.number: each for each in self.copies.copies if not each.reason}
        return tuple(
            _instance(copies[number]) if number in copies else each for number, each in enumerate(self.originals)
        )

    @cached_property
    def manifest(self) -> Manifest:
        """What the recipient is told: nothing of associations, times and originals."""
        studies: dict[str, dict[str, list[Instance]]] = defaultdict(lambda: defaultdict(list))
        for each in self.copies.copies:
            if not each.reason:
                studies[each.study_instance_uid][each.series_instance_uid].append(_instance(each))
        return replace(
            self.share.manifest,
            delivery=self.copies.delivery,
            opened_at=_NO_TIME,
            closed_at=_NO_TIME,
            associations=(),
            studies=tuple(
                Study(study, tuple(Series(uid, tuple(instances)) for uid, instances in series.items()))
                for study, series in studies.items()
            ),
        )

    def series_of(self, number: int) -> tuple[str, str]:
        """Return a copy's study and series."""
        copy = self.copies.copies[number]
        return copy.study_instance_uid, copy.series_instance_uid

    def refused(self) -> Sequence[Copy]:
        """Return what there is no copy of."""
        return [each for each in self.copies.copies if each.reason]

    def original_of(self, number: int) -> Path:
        """Return where the file is, or was, that an instance was received by."""
        sha256 = self.originals[number].sha256
        return self._files.get(sha256, self.path / f"{sha256}{SUFFIX}")

    def let_go(self, number: int) -> None:
        """Remove a copy and its original, whose end is noted. Raises `OSError`."""
        self._path(number).unlink(missing_ok=True)
        self.original_of(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.path / f"{number}.copy"


def _instance(copy: Copy) -> Instance:
    return Instance(
        sop_instance_uid=copy.sop_instance_uid,
        sop_class_uid=copy.sop_class_uid,
        transfer_syntax_uid=copy.transfer_syntax_uid,
        key="",
        bytes=copy.bytes,
        sha256=copy.sha256,
        received_at=_NO_TIME.isoformat(),
        association_id="",
    )
