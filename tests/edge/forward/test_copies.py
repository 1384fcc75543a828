"""A destination with a profile gets copies alone, and nothing of the originals in a byte, key or manifest."""

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from planted import Planter, encoded, reading
from pydicom import dcmread
from pydicom.dataset import Dataset
from routed_site import RoutedSite
from stow_origin import StowOrigin
from transfer_site import Pacs
from waiting import WAIT_SECONDS

from dicomflow import samples
from dicomflow.bucket.manifest import Manifest
from dicomflow.edge.forward.clerk import Clerk
from dicomflow.edge.forward.process import check_destinations
from dicomflow.edge.settings import build_settings
from dicomflow.edge.spool.copied import CopiedDelivery
from dicomflow.edge.spool.handedover import SharedDelivery
from dicomflow.edge.spool.view import quarantined_files
from dicomflow.errors import PermanentError

_SECRET = "a secret of a site, long enough to be one"
_PLANTED = [0x00081030, 0x0008103E, 0x00100010, 0x00100020, 0x00100030, 0x00104000, 0x00080080, 0x00081010, 0x00200052]


def _with_profiles(
    routed: RoutedSite, pacs: Pacs, secret: str = _SECRET, *, is_copied: bool = True, option: str = "shift_dates"
) -> None:
    routed.set(
        site_secret=secret,
        profiles={"shifted": {"options": [option]}},
        destinations={
            "research": {"kind": "store", "url": routed.research.as_uri(), "profile": "basic"},
            "pacs": {"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS"}
            | ({"profile": "shifted"} if is_copied else {}),
        },
        routes=[{"name": "all", "to": ["store", "research", "pacs"]}],
    )


def _received(routed: RoutedSite, planter: Planter) -> list[Dataset]:
    """Receive a CT series that is planted, and an ultrasound image that no profile lets go."""
    images = reading()[:3]
    for image in images:
        for tag in _PLANTED:
            if tag in image:
                del image[tag]
        planter.plant(image, rows=_PLANTED)
        image.file_meta.SourceApplicationEntityTitle = planter.text("AE title")
        routed.receive_content(image.SOPInstanceUID, encoded(image))
    ultrasound = list(samples.demo_studies())[-1]
    ultrasound.StudyInstanceUID = images[0].StudyInstanceUID
    ultrasound.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ultrasound.PixelData = bytes(64 * 64)
    routed.receive_content(ultrasound.SOPInstanceUID, encoded(ultrasound))
    routed.spool.associations.note_end("a1", "released")
    return [*images, ultrasound]


def _told(root: Path) -> bytes:
    """Return all that lies in a store, and how it is named."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return b"\n".join(part for path in paths for part in (str(path.relative_to(root)).encode(), path.read_bytes()))


def test_copies_go_where_the_profile_is_and_originals_to_the_store(routed: RoutedSite, pacs: Pacs):
    """Two recipients have copies that differ, the store has what was received, and what may not go is quarantined."""
    _with_profiles(routed, pacs)
    planter = Planter()
    originals = _received(routed, planter)
    routed.run(routed.is_level)
    sops = [each.SOPInstanceUID for each in originals]
    assert routed.digests(*sops) == routed.stored(routed.objects)
    copies = routed.stored(routed.research)
    assert len(copies) == 3
    assert len(pacs.taken) == 3
    assert not set(copies) & set(pacs.taken)
    assert (routed.counts["research done"], routed.counts["pacs done"]) == (3, 3)
    (manifest,) = routed.manifests(routed.research)
    assert {each.sop_instance_uid: each.sha256 for each in manifest.instances()} == copies
    assert all((routed.research / each.key).stat().st_size == each.bytes for each in manifest.instances())
    whole = _told(routed.research)
    assert planter.left_in(whole) == []
    (kept,) = routed.manifests(routed.objects)
    originals_words = [*sops, *(each.sha256 for each in kept.instances()), kept.delivery, originals[0].StudyInstanceUID]
    originals_words += [
        kept.associations[0].peer,
        f'"{kept.associations[0].association_id}"',
        str(kept.opened_at.date()),
    ]
    assert [word for word in originals_words if word and word.encode() in whole] == []


def test_what_may_not_go_is_quarantined_with_its_reason_and_told_of(routed: RoutedSite, pacs: Pacs):
    """The ledger has the reason by destination, and the original waits where an operator sees it."""
    _with_profiles(routed, pacs)
    *_, ultrasound = _received(routed, Planter())
    routed.run(routed.is_level)
    told = {each.destination: each.state for each in routed.routed(ultrasound.SOPInstanceUID)}
    assert told == {"store": "store", "research": "failed", "pacs": "failed"}
    ((path, reason),) = quarantined_files(routed.spool.root)
    assert path.read_bytes() == routed.sent[ultrasound.SOPInstanceUID]
    assert "devices write into ultrasound images" in reason


def test_an_origin_gets_copies_alone(routed: RoutedSite) -> None:
    """No byte of its requests, heads included, tells whose they are, whatever it answers in between."""
    with contextlib.closing(StowOrigin()) as origin:
        origin.statuses = [503, 400]
        routed.set(
            site_secret=_SECRET,
            destinations={"web": {"kind": "stow", "url": origin.url, "profile": "basic"}},
            routes=[{"to": ["store", "web"]}],
        )
        planter = Planter()
        originals = _received(routed, planter)
        routed.run(routed.is_level)
        told = b"".join(repr(each["headers"]).encode() + each["body"] for each in origin.requests)
    assert len(origin.requests) > 2
    assert set(origin.taken.values()) == {1}
    assert len(origin.taken) == 3
    assert planter.left_in(told) == []
    assert not [uid for each in originals for uid in _own_uids(each) if uid.encode() in told]
    assert len(list(routed.spool.scan_quarantined())) == 1


def _own_uids(image: Dataset) -> list[str]:
    return [str(image.SOPInstanceUID), str(image.SeriesInstanceUID), str(image.StudyInstanceUID)]


def test_copies_wait_for_a_dead_destination_and_are_sent_once(routed: RoutedSite, pacs: Pacs):
    """After a restart the copies that were made are sent, and not made again; then nothing is left of them."""
    _with_profiles(routed, pacs)
    before = reading()
    pacs.close()
    _received(routed, Planter())
    routed.run(lambda: routed.is_level("pacs"))
    (waiting,) = routed.handed.of("pacs")
    made = {path.name: path.stat().st_mtime_ns for path in waiting.path.glob("*.copy")}
    assert len(made) == 3
    again = Pacs()
    _with_profiles(routed, again)
    try:
        routed.run(lambda: len(again.taken) == 3 or None)
        routed.run(routed.is_level)
        assert set(again.taken.values()) == {1}
        assert not {each.SOPInstanceUID for each in before} & set(again.taken)
    finally:
        again.close()
    assert routed.handed.of("pacs") == []


def test_copies_that_wait_are_made_anew_by_the_profile_of_now(routed: RoutedSite, pacs: Pacs):
    """What a site mends in a profile that let too much pass reaches what has not left; its UIDs stay."""
    _with_profiles(routed, pacs, option="retain_institution")
    pacs.close()
    _received(routed, Planter())
    routed.run(lambda: routed.is_level("pacs"))
    (waiting,) = routed.handed.of("pacs")

    def read() -> list[Dataset]:
        return [dcmread(path) for path in sorted(waiting.path.glob("*.copy"))]

    before = read()
    assert len(before) == 3
    assert all("InstitutionName" in each for each in before)
    made_with = CopiedDelivery(waiting.path).copies.profile
    _with_profiles(routed, pacs)
    routed.run(lambda: CopiedDelivery(waiting.path).copies.profile != made_with)
    assert not any(each.get("InstitutionName") for each in read())
    assert [each.SOPInstanceUID for each in before] == [each.SOPInstanceUID for each in read()]
    again = Pacs()
    try:
        _with_profiles(routed, again)
        routed.run(routed.is_level)
        assert set(again.taken) == {each.SOPInstanceUID for each in before}
    finally:
        again.close()


def test_profile_that_is_taken_away_sends_no_original(routed: RoutedSite, pacs: Pacs):
    """What was decided with a profile waits for it, also where copies are made; what comes later goes as it is."""
    _with_profiles(routed, pacs)
    pacs.close()
    _received(routed, Planter())
    routed.run(lambda: routed.is_level("pacs"))
    again = Pacs()
    try:
        _with_profiles(routed, again, is_copied=False)
        late = reading(2)[0]
        routed.receive_content(late.SOPInstanceUID, encoded(late), "a2")
        routed.spool.associations.note_end("a2", "released")
        routed.run(lambda: len(again.taken) == 1 and routed.is_level("pacs"))
        assert list(again.taken) == [late.SOPInstanceUID]
        assert len(routed.handed.of("pacs")) == 1
        _with_profiles(routed, again)
        routed.run(routed.is_level)
        assert len(again.taken) == 4
    finally:
        again.close()


def test_manifest_has_what_arrives_while_another_is_set_aside(
    routed: RoutedSite, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
):
    """A disk that is slow at the quarantine costs no share its manifest: without one nobody would index it."""
    original = Clerk._set_aside

    def _slow(clerk: Clerk, folder: SharedDelivery, *arguments: Any) -> None:
        transfer = clerk._board.get(folder.path.name)
        until = time.monotonic() + WAIT_SECONDS
        while transfer is not None and transfer.left and time.monotonic() < until:
            time.sleep(0.01)
        original(clerk, folder, *arguments)

    monkeypatch.setattr(Clerk, "_set_aside", _slow)
    _with_profiles(routed, pacs)
    _received(routed, Planter())
    routed.run(routed.is_level)
    (manifest,) = routed.research.glob("manifests/*/*.json")
    listed = {each.key for each in Manifest.from_json(manifest.read_bytes()).instances()}
    assert listed == {str(path.relative_to(routed.research)) for path in routed.research.rglob("*.dcm")}
    assert len(listed) == 3


def test_another_secret_holds_the_copies_up(routed: RoutedSite, pacs: Pacs):
    """Nothing is sent that would not fit what the recipient has, until the secret is back."""
    _with_profiles(routed, pacs)
    _received(routed, Planter())
    routed.run(routed.is_level)
    count = len(pacs.taken)
    _with_profiles(routed, pacs, secret=_SECRET + ", but another one")
    late = reading(2)[0]
    routed.receive_content(late.SOPInstanceUID, encoded(late), "a2")
    routed.spool.associations.note_end("a2", "released")
    routed.run(lambda: routed.is_level("pacs", "research"))
    assert (len(pacs.taken), len(routed.stored(routed.research))) == (count, count)
    _with_profiles(routed, pacs)
    routed.run(routed.is_level)
    assert (len(pacs.taken), len(routed.stored(routed.research))) == (count + 1, count + 1)


def _document(**settings: Any) -> dict[str, Any]:
    node = {"host": "127.0.0.1", "port": 104, "ae_title": "PACS", "profile": "basic"}
    return {
        "name": "site-1",
        "spool": {"dir": "/nowhere"},
        "delivery": {"store_url": "file:///nowhere"},
        "destinations": {"pacs": node},
    } | settings


def test_no_original_goes_to_a_destination_with_a_profile_on_another_way():
    """Neither what the cloud sends back nor what a C-MOVE asks for leads there."""
    assert build_settings(_document(), "edge.toml").nodes == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"destinations": {"pacs": {**_document()["destinations"]["pacs"], "profile": "nobodys"}}}, "there are basic"),
        ({"destinations": {"pacs": {**_document()["destinations"]["pacs"], "commitment": True}}}, "commitment"),
        ({"site_secret": "short"}, "site_secret"),
        ({"profiles": {"basic": {}}}, "built in"),
        ({"profiles": {"mine": {"lookup": "projects.csv"}}}, "whole path"),
        ({"profiles": {"mine": {"options": ["shift_dates", "retain_full_dates"]}}}, "exclude each other"),
        ({"routes": [{"to": ["pacs"]}]}, "end nowhere"),
    ],
)
def test_settings_that_cannot_be_meant_stop_the_start(settings: dict[str, Any], words: str):
    """A profile that nobody has written, or an original without a home, is found before anything is received."""
    with pytest.raises(PermanentError, match=words) as caught:
        build_settings(_document(**settings), "edge.toml")
    assert "short" not in str(caught.value)


def test_profile_without_a_secret_stops_the_start(monkeypatch: pytest.MonkeyPatch):
    """Without it there would be no pseudonyms, and it is said which destination needs it."""
    monkeypatch.delenv("DICOMFLOW_SITE_SECRET", raising=False)
    with pytest.raises(PermanentError, match=r"destinations\.pacs\.profile needs site_secret"):
        check_destinations(build_settings(_document(), "edge.toml"))
    check_destinations(build_settings(_document(site_secret=_SECRET), "edge.toml"))
