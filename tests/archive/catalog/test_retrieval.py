"""What is stored is found, and given as it was received; what cannot be given is never an empty answer."""

from pathlib import Path

import pytest
from framed import GREY, ROOT, image
from sqlalchemy import Engine, text
from stored_archive import SERIES, STUDY, StoredArchive, as_stored

from dicomflow.archive.catalog.retrieval import MAX_UIDS, CatalogRetrieval
from dicomflow.archive.errors import BadQueryError, NotHeldError
from dicomflow.archive.retrieval import Selection
from dicomflow.errors import TransientError


def grey(number: int, *, study: str = STUDY, series: str = SERIES, comment: str = ""):
    """Return an image of a series."""
    dataset = as_stored(image(f"{ROOT}.1", GREY.tobytes()), number, study=study, series=series)
    dataset.ImageComments = comment
    return dataset


@pytest.fixture
def archive(tmp_path: Path, engine: Engine) -> StoredArchive:
    """Give an archive of two series of one study, and one of another."""
    found = StoredArchive(tmp_path, engine)
    found.receive(grey(2), grey(1), grey(10), grey(1, series=f"{STUDY}.2"), grey(1, study="1.3", series="1.3.1"))
    return found


def test_each_level_selects_its_instances_in_their_order(archive: StoredArchive) -> None:
    """By series and instance number; lists mean any of them, and levels all of them."""
    find = archive.retrieval.find
    assert [f"{SERIES}.1", f"{SERIES}.2", f"{SERIES}.10", f"{STUDY}.2.1"] == [
        each.sop_instance_uid for each in find(Selection(studies=(STUDY,)))
    ]
    assert [f"{STUDY}.2.1"] == [each.sop_instance_uid for each in find(Selection(None, (STUDY,), (f"{STUDY}.2",)))]
    chosen = Selection(series=(SERIES, "9.9"), instances=(f"{SERIES}.1", f"{SERIES}.10", "1.3.1.1"))
    assert [f"{SERIES}.1", f"{SERIES}.10"] == [each.sop_instance_uid for each in find(chosen)]
    assert 5 == len(find(Selection(patient_id="P1")))
    assert [] == find(Selection(None, ("1.3",), (SERIES,)))
    assert [] == find(Selection(studies=("1.2",)))


def test_instance_is_given_byte_for_byte(archive: StoredArchive) -> None:
    """With what the catalog knows of it: class, syntax, size and digest."""
    (found,) = archive.retrieval.find(Selection(instances=(f"{SERIES}.10",)))
    content = archive.contents[f"{SERIES}.10"]
    assert (len(content), f"{ROOT}.1", "1.2.840.10008.5.1.4.1.1.7") == (
        found.size_bytes,
        found.transfer_syntax_uid,
        found.sop_class_uid,
    )
    assert content == b"".join(archive.retrieval.chunks(found))
    file = archive.retrieval.open(found)
    file.seek(100)
    assert content[100:200] == file.read(100)


def test_newest_version_is_given_and_others_by_their_digest(archive: StoredArchive) -> None:
    """An instance that came twice, and differs."""
    uid = f"{SERIES}.1"
    first = archive.digest(uid)
    archive.receive(grey(1, comment="sent again"), delivery="d2")
    (newest,) = archive.retrieval.find(Selection(instances=(uid,)))
    assert archive.contents[uid] == b"".join(archive.retrieval.chunks(newest))
    with archive.engine.begin() as connection:  # as the manifests of both tell
        for key, digest in ((newest.location, archive.digest(uid)), (newest.location.replace("d2", "d1"), first)):
            connection.execute(
                text("UPDATE stored_object SET sha256 = :digest WHERE object_key = :key"),
                {"digest": digest, "key": key},
            )
    (other,) = archive.retrieval.find(Selection(instances=(uid,), version=first))
    assert (first, "", True) == (other.sha256, other.transfer_syntax_uid, "/d1/" in other.location)
    assert [] == archive.retrieval.find(Selection(instances=(uid,), version="0" * 64))


def test_object_that_is_gone_or_shorter_is_an_error(archive: StoredArchive) -> None:
    """Never less than all of it."""
    (found,) = archive.retrieval.find(Selection(instances=(f"{SERIES}.1",)))
    path = archive.folder / "objects" / found.location
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(NotHeldError):
        list(archive.retrieval.chunks(found))
    path.unlink()
    with pytest.raises(NotHeldError):
        list(archive.retrieval.chunks(found))


def test_object_that_cannot_be_read_now_is_transient(archive: StoredArchive) -> None:
    """The store's failure is not that of the object."""
    (found,) = archive.retrieval.find(Selection(instances=(f"{SERIES}.1",)))
    path = archive.folder / "objects" / found.location
    path.unlink()
    path.symlink_to(path.name)  # round and round: the system's error, not "there is none"
    with pytest.raises(TransientError):
        list(archive.retrieval.chunks(found))


def test_catalog_that_is_away_is_transient(archive: StoredArchive) -> None:
    """It is not "nothing found"."""
    with archive.engine.begin() as connection:
        connection.execute(text("ALTER TABLE instance RENAME TO instance_gone"))
    for ask in (lambda: archive.retrieval.find(Selection(studies=(STUDY,))), archive.retrieval.stored_syntaxes):
        with pytest.raises(TransientError):
            ask()


def test_selection_of_all_or_of_too_many_is_refused(archive: StoredArchive) -> None:
    """An empty one would give everything out."""
    with pytest.raises(BadQueryError):
        archive.retrieval.find(Selection())
    with pytest.raises(BadQueryError):
        archive.retrieval.find(Selection(instances=tuple(f"1.{number}" for number in range(MAX_UIDS + 1))))


def test_stored_syntaxes_are_told_by_class(archive: StoredArchive) -> None:
    """The most frequent first; asked for once a minute."""
    retrieval = archive.retrieval
    assert (("1.2.840.10008.5.1.4.1.1.7", (f"{ROOT}.1",)),) == retrieval.stored_syntaxes()
    archive.receive(as_stored(image(ROOT, GREY.tobytes()), 77))
    assert (("1.2.840.10008.5.1.4.1.1.7", (f"{ROOT}.1",)),) == retrieval.stored_syntaxes()
    assert (("1.2.840.10008.5.1.4.1.1.7", (f"{ROOT}.1", ROOT)),) == archive.retrieval.stored_syntaxes()


def test_syntaxes_are_told_when_all_is_counted(archive: StoredArchive) -> None:
    """What all objects of a class have is not known of a part of them, and one that went in first counts as any."""
    kind = "1.2.840.10008.5.1.4.1.1.7"
    archive.receive(as_stored(image(ROOT, GREY.tobytes()), 78))
    told = [CatalogRetrieval(archive.engine, archive.store).stored_syntaxes()]
    slow = CatalogRetrieval(archive.engine, archive.store, most_counted=2)
    while not told[-1] or len(told) < 2:
        told.append(slow.stored_syntaxes())
    assert {(): None, told[0]: None}.keys() == set(told)
    assert ((kind, {f"{ROOT}.1", ROOT}),) == tuple((uid, set(syntaxes)) for uid, syntaxes in told[-1])
