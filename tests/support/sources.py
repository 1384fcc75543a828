"""A PACS of another make that is asked and retrieved from, and that lies as it is told (pynetdicom)."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pydicom.config
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from waiting import WAIT_SECONDS

__all__ = ["Source"]

_UNIQUE = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"]


class _Checkpoint(threading.Event):
    """Where the reactor of an association stands still while somebody else reads answers.

    pynetdicom's `send_c_store` believes a flag that the reactor has set just before it goes on: then the reactor takes
    the answer, and the sub-operation fails when `dimse_timeout` is over, half a minute each. Here the flag is followed
    by the truth: who clears returns when the reactor waits.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self.set()
        self._association = association
        self._is_waited_at = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as an event does."""
        with self._cond:
            self._is_waited_at = not self._flag
            self._cond.wait_for(self.is_set, timeout)
            self._is_waited_at = False
            return self._flag

    def clear(self) -> None:
        """Clear, and return when the reactor waits, or has ended."""
        with self._cond:
            self._flag = False
        while not self._is_waited_at and self._association.is_alive():
            time.sleep(0.0005)


class _AE(AE):
    def associate(self, *arguments: Any, **options: Any) -> Association:
        association = super().associate(*arguments, **options)
        association._reactor_checkpoint = _Checkpoint(association)
        return association


class Source:
    """A source with images. One owner, the test, which sets what it lies about before it is asked.

    `dropped` are never sent, though counted as sent; `most` cuts answers, with `cut_status` as their end; `repeats`
    each answer; with `is_lazy` a move sends nothing and says Success; `ignored` keys match everything; `hidden_levels`
    answer nothing; with `refuses_ranges` ranges of dates and times are refused; `refuses` is what a move of more than
    one image is answered, and `moves` counts them all.
    """

    def __init__(self, images: Sequence[Dataset], *, ae_title: str = "SOURCE", roles: bool = True) -> None:
        # What it answers on purpose, and ranges that are asked, are no values of their VR.
        self._modes = (pydicom.config.settings.reading_validation_mode, pydicom.config.settings.writing_validation_mode)
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        self.images = list(images)
        self.destinations: dict[str, tuple[str, int]] = {}
        self.dropped: set[str] = set()
        self.most = 0
        self.cut_status = 0
        self.refuses_ranges = False
        self.repeats = 1
        self.is_lazy = False
        self.late_seconds = 0.0
        self.ignored: set[str] = set()
        self.hidden_levels: set[str] = set()
        self.refuses = 0
        self.fails_find = 0
        self.changes: dict[str, Any] = {}
        self.questions: list[Dataset] = []
        self.moves: list[Dataset] = []
        self.sent: Counter[str] = Counter()
        self.stopping = threading.Event()
        ae = _AE(ae_title)
        ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = WAIT_SECONDS
        for each in (
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelMove,
            StudyRootQueryRetrieveInformationModelGet,
        ):
            ae.add_supported_context(each, _SYNTAXES)
        for each in {image.SOPClassUID for image in self.images}:
            ae.add_requested_context(each, _SYNTAXES)
            if roles:
                ae.add_supported_context(each, _SYNTAXES, scu_role=True, scp_role=True)
        self._server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[
                (evt.EVT_C_FIND, self._find),
                (evt.EVT_C_MOVE, self._move),
                (evt.EVT_C_GET, self._get),
            ],
        )
        self.port = self._server.server_address[1]

    def close(self) -> None:
        """Answer no more."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        self._server.shutdown()
        pydicom.config.settings.reading_validation_mode, pydicom.config.settings.writing_validation_mode = self._modes

    def replace_move(self, move: Any) -> None:
        """Have moves answered by a handler of the test's."""
        self._server.unbind(evt.EVT_C_MOVE, self._move)
        self._server.bind(evt.EVT_C_MOVE, move)

    def _matching(self, asked: Dataset) -> list[Dataset]:
        def fits(image: Dataset) -> bool:
            for keyword in _UNIQUE.values():
                wanted = asked.get(keyword)
                wanted = [wanted] if isinstance(wanted, str) else list(wanted or ())
                if any(wanted) and image.get(keyword) not in wanted:
                    return False
            for keyword in ("PatientID", "AccessionNumber"):
                wanted = asked.get(keyword)
                if wanted and keyword not in self.ignored and not _like(image.get(keyword, ""), wanted):
                    return False
            modality = asked.get("ModalitiesInStudy") or asked.get("Modality")
            if modality and "Modality" not in self.ignored and image.Modality != modality:
                return False
            for keyword in ("StudyDate", "StudyTime"):
                window = asked.get(keyword)
                if window and keyword not in self.ignored:
                    low, dash, high = window.partition("-")
                    found = image.get(keyword) or ""
                    if not found or not (low or "0") <= found <= ((high or "9") if dash else low):
                        return False
            return True

        return [image for image in self.images if fits(image)]

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        asked = event.identifier
        self.questions.append(asked)
        if self.fails_find:
            yield self.fails_find, None
            return
        if self.refuses_ranges and any("-" in asked.get(keyword, "") for keyword in ("StudyDate", "StudyTime")):
            yield 0xA900, None
            return
        level = asked.QueryRetrieveLevel
        found: dict[str, list[Dataset]] = {}
        if level not in self.hidden_levels:
            for image in self._matching(asked):
                found.setdefault(image.get(_UNIQUE[level]), []).append(image)
        for number, images in enumerate(found.values()):
            if event.is_cancelled or (self.most and number >= self.most):
                yield 0xFE00 if event.is_cancelled else self.cut_status, None
                return
            for _ in range(self.repeats):
                yield 0xFF00, self._answer(asked, images, level)

    def _answer(self, asked: Dataset, images: list[Dataset], level: str) -> Dataset:
        answer = Dataset()
        answer.SpecificCharacterSet = "ISO_IR 100"
        for element in asked:
            if element.keyword in images[0] and element.keyword != "SpecificCharacterSet":
                answer[element.tag] = images[0][element.tag]
        answer.QueryRetrieveLevel = level
        if "ModalitiesInStudy" in asked:
            answer.ModalitiesInStudy = sorted({image.Modality for image in images})
        if "NumberOfStudyRelatedInstances" in asked:
            answer.NumberOfStudyRelatedInstances = len(images)
        if "NumberOfSeriesRelatedInstances" in asked:
            answer.NumberOfSeriesRelatedInstances = len(images)
        for keyword, value in self.changes.items():
            if keyword in answer:
                del answer[keyword]  # an element judges by what was in force when it was made
            if value is not None:
                setattr(answer, keyword, value)
        return answer

    def _chosen(self, event: Any) -> list[Dataset]:
        self.moves.append(event.identifier)
        return [image for image in self._matching(event.identifier) if image.SOPInstanceUID not in self.dropped]

    def _move(self, event: Any) -> Iterator[Any]:
        address = self.destinations.get(event.move_destination)
        if address is None:
            yield None, None
            return
        yield address
        yield from self._send(event)

    def _get(self, event: Any) -> Iterator[Any]:
        yield from self._send(event)

    def _send(self, event: Any) -> Iterator[Any]:
        images = [] if self.is_lazy else self._chosen(event)
        if self.is_lazy:
            self.moves.append(event.identifier)
        if self.refuses and len(images) > 1:
            yield 0
            yield self.refuses, None
            return
        yield len(images)
        for image in images:
            if self.stopping.wait(self.late_seconds):
                return
            if event.is_cancelled:
                yield 0xFE00, None
                return
            self.sent[image.SOPInstanceUID] += 1
            yield 0xFF00, image
        time.sleep(0)


def _like(value: str, wanted: str) -> bool:
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted
