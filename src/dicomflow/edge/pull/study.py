"""One study: looked at, compared with what is here, fetched as far as it is missing, and looked at again.

Only the last look counts. What the source says of its sending decides how the rest is asked for, and stands in the
report beside what did not come.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from dicomflow.dimse.status import describe_status
from dicomflow.edge.pull.fetch import MOST_UIDS, Peer, Wanted, fetch_by_get, fetch_by_move
from dicomflow.edge.pull.here import Held, Holdings
from dicomflow.edge.pull.jobs import MissingImage, Study, StudyState
from dicomflow.edge.pull.look import Answers, AtSource, look_at_study
from dicomflow.errors import PermanentError, TransientError
from dicomflow.network.querying import QueryAssociation, Retrieved

__all__ = ["Limits", "StudyPull", "UnknownDestinationError"]

_UNKNOWN_DESTINATION: Final = 0xA801
_SIZES: Final = (MOST_UIDS, 50, 7, 1)
_MOST_LOOKS: Final = 3
_LOOK_SECONDS: Final = 0.2
# A look at a large study takes its time: at most a fifth of all.
_IDLE_SHARE: Final = 4.0
# For a source that says to have sent more than came: it may answer before its last image is through.
_PATIENT: Final = 12


class UnknownDestinationError(PermanentError):
    """The source does not know where to send: so it is for each study, until somebody changes a setting."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What fetching has to wait for and to stop at: `admit` waits for its turn, `is_over` ends what is under way.

    `paid` is told of the bytes that came, and waits where there is a rate; `most_uids` is how many images a list has.
    """

    admit: Callable[[], None]
    is_over: Callable[[], bool]
    paid: Callable[[int, float], None]
    most_uids: Callable[[], int]


@dataclass(slots=True)
class _Said:
    """What the source said of what did not come."""

    status: int = 0
    promised: int = 0  # how many it says to have sent
    is_whole_asked: bool = False  # whether it was to send the study, whatever of it it tells
    reasons: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)


class StudyPull:
    """Works on one study after the other. Thread: one owner.

    Args:
        peer: the source.
        holdings: what is here.
        limits: when and how much is fetched.
        association: gives the association for questions and moves, open.
        answers: how many the source gives to one question.
    """

    def __init__(
        self,
        peer: Peer,
        holdings: Holdings,
        limits: Limits,
        association: Callable[[], QueryAssociation],
        answers: Answers,
    ) -> None:
        self._peer = peer
        self._holdings = holdings
        self._limits = limits
        self._association = association
        self._answers = answers

    def compare(self, study: Study, modality: str) -> tuple[Study, list[MissingImage]]:
        """Look at a study and compare, without fetching.

        Raises:
            TransientError: source or store do not answer.
        """
        at, held = self._look(study, set())
        return self._judged(study, at, held, modality, _Said())

    def fetch(self, study: Study, modality: str, begun: Callable[[Study], None]) -> tuple[Study, list[MissingImage]]:
        """Compare, fetch what is missing, and compare again.

        Args:
            study: the study; one that was being fetched when somebody was killed is waited for first.
            modality: what its series must have one of; empty for any.
            begun: is told before anything is asked to be sent.

        Raises:
            TransientError: source or store do not answer.
            UnknownDestinationError: the source does not know this edge.
        """
        confirmed: set[str] = set()
        said = _Said()
        if study.state is StudyState.FETCHING:
            self._await_quiet(study.uid, 1)
        at, held = self._look(study, confirmed)
        for _ in range(_MOST_LOOKS):
            judged, missing = self._judged(study, at, held, modality, said)
            is_known = judged.state in {StudyState.COMPLETE, StudyState.OTHER}
            if is_known or (not judged.missing and (judged.state is StudyState.COUNTED or said.is_whole_asked)):
                return judged, missing
            before, said = at.images.keys(), _Said()
            begun(replace(judged, state=StudyState.FETCHING))
            self._fetch(study.uid, at, confirmed, said)
            at, held = self._look(study, confirmed)
            if at.images.keys() == before:
                break  # nothing came to it meanwhile, so what is missing now did not come
        return self._judged(study, at, held, modality, said)

    def _look(self, study: Study, confirmed: set[str]) -> tuple[AtSource, dict[str, Held]]:
        at = look_at_study(self._association(), study.uid, study.claimed, self._answers)
        return at, self._holdings.of_study(study.uid, confirmed)

    def _judged(
        self, study: Study, at: AtSource, held: dict[str, Held], modality: str, said: _Said
    ) -> tuple[Study, list[MissingImage]]:
        """Return how a study stands, and each image that is missing, with what was said of it."""
        if modality and at.series and at.modalities.isdisjoint({modality, ""}):  # a series may tell none
            return replace(study, state=StudyState.OTHER), []
        lacking = [each for each in at.images.values() if each.uid not in held]
        problems = self._holdings.problems_of(study.uid) if lacking else {}
        missing = [
            MissingImage(study.uid, each.series_uid, each.uid, problems.get(each.uid) or said.reasons.get(each.uid, ""))
            for each in lacking
        ]
        judged = replace(
            study,
            modalities=study.modalities or "\\".join(sorted(filter(None, at.modalities))),
            claimed=at.claimed,
            source=len(at.images),
            here=len(held),
            stored=sum(each.is_stored for each in held.values()),
            imported=sum(each.is_imported for each in held.values()),
            missing=len(missing),
            refused=sum(each.uid in said.refused or each.uid in problems for each in lacking),
            unknown=len(held.keys() - at.images.keys()),
            reason=at.reason,
            state=StudyState.INCOMPLETE if missing or at.unusable else StudyState.COMPLETE,
        )
        if at.is_counted:
            judged = self._counted(judged, at, said)
        if at.unusable:  # an image that cannot be compared may be missing, whatever the numbers say
            reason = f"{at.unusable} answers of the source have no usable UID"
            judged = replace(judged, reason=reason, state=StudyState.INCOMPLETE)
        if not judged.reason and said.status:
            judged = replace(judged, reason=f"the source answered {describe_status(said.status)}")
        if not judged.reason and missing and not said.status and said.reasons:
            judged = replace(judged, reason="the source answered success, and they did not come")
        return judged, missing

    @staticmethod
    def _counted(judged: Study, at: AtSource, said: _Said) -> Study:
        """Return a study of which the source does not tell all images: its numbers are all there is to compare.

        Without a number it is unread, unless it sent the whole study and nothing came that it had not told.
        """
        if at.claimed is None:
            is_all = said.is_whole_asked and not said.status and bool(at.images) and not judged.unknown
            return replace(judged, state=StudyState.COUNTED if is_all else StudyState.UNREAD)
        lacking = max(judged.missing, at.claimed - judged.here, 0)
        return replace(
            judged, state=StudyState.COUNTED, source=max(at.claimed, len(at.images)), missing=lacking, unknown=0
        )

    def _fetch(self, study_uid: str, at: AtSource, confirmed: set[str], said: _Said) -> None:
        """Ask for what is missing in lists that become smaller, until a round brings nothing for the second time."""
        if at.is_counted:
            before = self._holdings.arrived(study_uid)[0]
            self._ask(Wanted(study_uid, sop_class_uids=_classes(at)), [], said)
            said.is_whole_asked = True
            self._await_quiet(
                study_uid,
                1,
                lambda: self._has_come(study_uid, before, said) and not self._missing(study_uid, at, confirmed),
            )
        fruitless = 0
        missing = self._missing(study_uid, at, confirmed)
        for size in _SIZES:
            if not missing or fruitless > 1:
                return
            said.reasons.clear()
            said.refused.clear()
            said.status = said.promised = 0
            for wanted, uids in self._lists(study_uid, at, missing, size):
                self._ask(wanted, uids, said)
            left = self._await(study_uid, at, confirmed, len(at.images) - len(missing) + said.promised)
            fruitless = fruitless + 1 if len(left) == len(missing) else 0
            missing = left

    def _lists(self, study_uid: str, at: AtSource, missing: list[str], size: int) -> Iterator[tuple[Wanted, list[str]]]:
        """Yield what to ask for: whole series where more than half is missing, and else lists of images."""
        by_series: dict[str, list[str]] = {}
        for uid in missing:
            by_series.setdefault(at.images[uid].series_uid, []).append(uid)
        most = self._limits.most_uids()
        for series_uid, uids in by_series.items():
            whole = sum(each.series_uid == series_uid for each in at.images.values())
            if size == MOST_UIDS and 2 * len(uids) > whole and whole <= most:
                yield Wanted(study_uid, series_uid, sop_class_uids=_classes(at, uids)), uids
                continue
            # Of few that did not come, each goes by itself: one that is refused takes the others of its list with it.
            step = max(1, min(size, most, len(uids) if size == MOST_UIDS else -(-len(uids) // 4)))
            for start in range(0, len(uids), step):
                chunk = uids[start : start + step]
                yield Wanted(study_uid, series_uid, tuple(chunk), _classes(at, chunk)), chunk

    def _ask(self, wanted: Wanted, uids: list[str], said: _Said) -> None:
        """Have the source send, and keep what it says."""
        self._limits.admit()
        started_at = time.monotonic()
        before = self._holdings.arrived(wanted.study_uid)
        follow = _Follow(
            lambda: self._holdings.arrived(wanted.study_uid), self._limits, self._peer.source.stall_seconds
        )
        try:
            if self._peer.source.move_destination:
                result = fetch_by_move(self._association(), self._peer, wanted, follow.go_on)
            else:
                result = fetch_by_get(self._peer, wanted, follow.go_on)
        except TransientError:
            if not follow.is_stalled:
                raise
            result = Retrieved(0xFE00)  # it did not end what was cancelled
        if result.status == _UNKNOWN_DESTINATION:
            raise UnknownDestinationError(
                f"the source answered {describe_status(result.status)}: make"
                f" {self._peer.source.move_destination} known to it, or correct"
                f" sources.{self._peer.name}.move_destination"
            )
        self._limits.paid(self._holdings.arrived(wanted.study_uid)[1] - before[1], time.monotonic() - started_at)
        said.status = said.status or result.status
        said.promised += (result.completed or 0) + (result.warning or 0)
        words = f"the source answered {describe_status(result.status)}"
        if follow.is_stalled:
            words = f"nothing came for {self._peer.source.stall_seconds:.0f} s, so the retrieval was cancelled"
        named = set(result.failed_uids)
        for uid in uids:
            said.reasons[uid] = words
            if uid in named or (result.status and (len(uids) == 1 or not named)):
                said.refused.add(uid)

    def _has_come(self, study_uid: str, before: int, said: _Said) -> bool:
        """Tell whether as many have come as the source says to have sent; of none it need not have said anything."""
        return 0 < said.promised <= self._holdings.arrived(study_uid)[0] - before

    def _missing(self, study_uid: str, at: AtSource, confirmed: set[str]) -> list[str]:
        held = self._holdings.of_study(study_uid, confirmed)
        return [uid for uid in at.images if uid not in held]

    def _await(self, study_uid: str, at: AtSource, confirmed: set[str], promised: int) -> list[str]:
        """Return what is still missing when nothing has come for a while, or at once when all has."""
        left = self._missing(study_uid, at, confirmed)
        if left:
            times = _PATIENT if len(left) > len(at.images) - promised else 1
            self._await_quiet(study_uid, times, lambda: not self._missing(study_uid, at, confirmed))
            left = self._missing(study_uid, at, confirmed)
        return left

    def _await_quiet(self, study_uid: str, times: int, is_done: Callable[[], bool] = lambda: False) -> None:
        """Wait until nothing of a study has come for `quiet_seconds`, or it is done."""
        quiet = self._peer.source.quiet_seconds * times
        seen, seen_at = self._holdings.arrived(study_uid), time.monotonic()
        pause = min(_LOOK_SECONDS, quiet)
        while time.monotonic() - seen_at < quiet and not self._limits.is_over():
            time.sleep(pause)  # files tell nobody
            looked_at = time.monotonic()
            # What is counted may be on its way to its folder still: so it is asked again also when nothing new came.
            if is_done():
                return
            now = self._holdings.arrived(study_uid)
            pause = max(pause, _IDLE_SHARE * (time.monotonic() - looked_at))
            if now != seen:
                seen, seen_at = now, time.monotonic()


class _Follow:
    """Judges whether a retrieval is worth waiting for: by what arrives here, whatever its answers say."""

    def __init__(self, arrived: Callable[[], tuple[int, int]], limits: Limits, stall_seconds: float) -> None:
        self.is_stalled = False
        self._arrived = arrived
        self._limits = limits
        self._stall_seconds = stall_seconds
        self._seen = arrived()
        self._looked_at = self._moved_at = time.monotonic()

    def go_on(self, _told: Retrieved | None) -> bool:
        """Tell whether it is to go on."""
        if self._limits.is_over():
            return False
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            seen = self._arrived()
            if seen != self._seen:
                self._seen, self._moved_at = seen, now
        self.is_stalled = now - self._moved_at > self._stall_seconds
        return not self.is_stalled


def _classes(at: AtSource, uids: list[str] | None = None) -> tuple[str, ...]:
    images = at.images.values() if uids is None else (at.images[uid] for uid in uids)
    return tuple(dict.fromkeys(each.sop_class_uid for each in images if each.sop_class_uid))
