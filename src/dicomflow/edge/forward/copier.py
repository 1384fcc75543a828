"""Makes the de-identified copies of what was handed over to a destination with a profile, before any of it is sent.

What may not go has a failed answer, and its original ends as whatever the destination refuses for good; the others go
on. A secret that is another one than before holds all up: nothing would fit what the recipient has.
"""

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from typing import Final

from dicomflow.bucket.transfer import InstanceState
from dicomflow.deidentify.copying import Quarantined, deidentify
from dicomflow.deidentify.profile import Profile, load_profile
from dicomflow.deidentify.secret import SECRET_VARIABLE, site_secret
from dicomflow.edge.settings import EdgeSettings
from dicomflow.edge.spool.copied import CopiedDelivery, Copies, Copy
from dicomflow.edge.spool.durable import write_note
from dicomflow.edge.spool.handedover import SharedDelivery
from dicomflow.edge.spool.transfers import Answer
from dicomflow.edge.spool.view import free_bytes
from dicomflow.errors import PeerError, PermanentError, TransientError
from dicomflow.regularfiles import open_descriptor

__all__ = ["Copier", "as_received", "profiles_of"]

_SECRET_FILE: Final = "secret"  # noqa: S105  # it holds the name of one


def profiles_of(settings: EdgeSettings) -> Mapping[str, Profile]:
    """Return the profiles in force, by the destinations that have one.

    Raises:
        PermanentError: there is no site secret, or a lookup table cannot be read.
    """
    named = {name: each.profile for name, each in settings.destinations.items() if each.profile is not None}
    secret = site_secret(settings.site_secret)
    if named and secret is None:
        raise PermanentError(f"destinations.{min(named)}.profile needs site_secret, or {SECRET_VARIABLE}")
    found = {}
    for name, profile in named.items():
        try:
            found[name] = load_profile(profile, settings.profiles, secret=secret or "", domain=name)
        except PermanentError as error:
            raise PermanentError(f"destinations.{name}.profile: {error}") from error
    return found


def as_received(folder: SharedDelivery) -> SharedDelivery:
    """Return a share of originals, for a destination without a profile.

    Raises:
        PermanentError: it was decided when the destination had one.
    """
    if folder.share.is_copied or CopiedDelivery(folder.path).is_made:
        raise PermanentError(
            f"what was decided for destinations.{folder.share.destination} with a profile is not sent without one:"
            " bring its profile back"
        )
    return folder


class Copier:
    """Makes copies for one destination. Thread: one owner.

    Args:
        profile: the destination's.
        refuse_below_bytes: what receiving needs of the volume.
        stopping: ends the work after the copy at hand.
        fsync: whether copies are synced.
    """

    def __init__(
        self, profile: Profile, refuse_below_bytes: int, stopping: threading.Event, *, fsync: bool = True
    ) -> None:
        self._profile = profile
        self._refuse_below_bytes = refuse_below_bytes
        self._stopping = stopping
        self._fsync = fsync

    def __call__(self, folder: SharedDelivery) -> SharedDelivery:
        """Return a share with its copies; what is refused has its answer.

        They are made unless they are, and anew where the site has set the profile otherwise since: but for those that
        have come to their end.

        Raises:
            OSError: a copy cannot be written now.
            PermanentError: the secret is another one, or a note is damaged.
            TransientError: the stop came first; what is made is made again.
        """
        copied = CopiedDelivery(folder.path, fsync=self._fsync)
        digest = self._profile.digest
        if not copied.is_made or copied.copies.profile != digest:
            self._check_secret(copied)
            delivery = self._profile.pseudonyms.delivery(folder.share.manifest.delivery)
            made = {each.number: each for each in copied.copies.copies} if copied.is_made else {}
            ended = {each.number for each in copied.ends()}
            copies = tuple(
                made[number] if number in made and number in ended else self._copy(copied, number)
                for number in range(len(copied.originals))
            )
            copied.note(Copies(delivery, copies, digest))
            copied = CopiedDelivery(folder.path, fsync=self._fsync)
        self._answer(copied)
        return copied

    def _check_secret(self, copied: CopiedDelivery) -> None:
        """Keep the secret's name at the first copy, and compare it with that of any other."""
        path, key_id = copied.path.parent / _SECRET_FILE, self._profile.pseudonyms.key_id.encode()
        try:
            known = path.read_bytes()
        except FileNotFoundError:
            write_note(path, key_id, fsync=self._fsync)
            return
        if known != key_id:
            raise PermanentError(
                "the site secret is not the one that earlier copies were made with, and nothing would fit them:"
                f" bring it back, or remove {path} to begin anew"
            )

    def _copy(self, copied: CopiedDelivery, number: int) -> Copy:
        if self._stopping.is_set():
            raise TransientError("the stop came before all copies were made")
        original = copied.originals[number]
        if free_bytes(copied.path) < self._refuse_below_bytes + original.bytes:
            raise TransientError("the spool has no room for copies now")
        target = copied.file_of(number)
        target.unlink(missing_ok=True)
        try:
            outcome = deidentify(copied.whole_original(number), target, self._profile)
        except PeerError as error:
            outcome = Quarantined(str(error))
        if isinstance(outcome, Quarantined):
            return Copy(number, "", "", "", "", "", 0, "", outcome.reason)
        if self._fsync:
            descriptor = open_descriptor(target, os.O_RDWR)
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, descriptor)
                os.fsync(descriptor)
        return Copy(
            number,
            outcome.study_uid,
            outcome.series_uid,
            outcome.sop_uid,
            outcome.sop_class_uid,
            outcome.transfer_syntax_uid,
            outcome.size_bytes,
            outcome.sha256,
        )

    @staticmethod
    def _answer(copied: CopiedDelivery) -> None:
        """Write down the end of what may not go, once."""
        told = {each.number for each in copied.answers()}
        answers = [
            Answer(1, each.number, InstanceState.FAILED, None, each.reason, time.time())
            for each in copied.refused()
            if each.number not in told
        ]
        if answers:
            copied.record(answers)
