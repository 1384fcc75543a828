"""The folder of `dicomflow local`: its owner's alone, one program's at a time, with the settings that lie in it."""

import os
from pathlib import Path

import pytest

from dicomflow.errors import PermanentError
from dicomflow.local_folder import Room, claim_folder, load_edge_settings, open_to_others

posix = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")


def mode(path: Path) -> int:
    """Return the permissions of a path."""
    return path.stat().st_mode & 0o777


@posix
def test_claim_new_folder_makes_it_for_its_owner_alone(tmp_path: Path):
    """Whatever the umask, nobody else can look into it."""
    before = os.umask(0)
    try:
        claim_folder(tmp_path / "new" / "data").release()
    finally:
        os.umask(before)
    assert (0o700, [], 0o600) == (
        mode(tmp_path / "new" / "data"),
        open_to_others(tmp_path / "new" / "data"),
        mode(tmp_path / "new" / "data" / "local.lock"),
    )


@posix
def test_claim_folder_of_an_earlier_version_closes_it(tmp_path: Path):
    """What was readable for all is closed, folders and databases."""
    tmp_path.chmod(0o755)
    for name in ("objects", "spool"):
        (tmp_path / name).mkdir(mode=0o755)
    for name in ("catalog.db", "catalog.db-wal", "healthimaging.db"):
        (tmp_path / name).touch(0o644)
    claim_folder(tmp_path).release()
    assert (0o700, {0o700}, {0o600}) == (
        mode(tmp_path),
        {mode(tmp_path / name) for name in ("objects", "spool")},
        {mode(tmp_path / name) for name in ("catalog.db", "catalog.db-wal", "healthimaging.db")},
    )


@posix
def test_claim_folder_with_other_things_closes_only_what_is_ours(tmp_path: Path):
    """A folder that is used for more, as /tmp, stays open; images and catalog in it are closed."""
    tmp_path.chmod(0o777)
    (tmp_path / "of others").touch(0o644)
    (tmp_path / "objects").mkdir(mode=0o755)
    claim_folder(tmp_path).release()
    assert (0o777, 0o644, 0o700) == (mode(tmp_path), mode(tmp_path / "of others"), mode(tmp_path / "objects"))


def test_claim_folder_twice_is_refused_until_it_is_released(tmp_path: Path):
    """The second one does nothing at all; afterwards the folder is free."""
    first = claim_folder(tmp_path)
    with pytest.raises(PermanentError, match="another `dicomflow local` runs on"):
        claim_folder(tmp_path)
    first.release()
    claim_folder(tmp_path).release()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="root alone can give files away")
@pytest.mark.parametrize("name", ["catalog.db", "healthimaging.db", "objects", "spool"])
def test_claim_folder_of_another_user_is_refused_and_nothing_is_made(name: str, tmp_path: Path):
    """Root's files in it would stop the one whose folder it is."""
    (tmp_path / name).mkdir()
    os.chown(tmp_path / name, 65534, 65534)
    with pytest.raises(PermanentError, match=f"{name} belongs to .*: run `dicomflow local` as "):
        claim_folder(tmp_path)
    assert [tmp_path / name] == list(tmp_path.iterdir())


def test_settings_without_a_file_are_an_edges_own(tmp_path: Path):
    """Receiving for every AE title on every address, and what is given goes before that."""
    plain = load_edge_settings(tmp_path)
    given = load_edge_settings(tmp_path, port=104, bind="127.0.0.1", quiet_seconds=2)
    assert (11112, "0.0.0.0", 10.0) == (plain.dimse.port, plain.dimse.bind, plain.delivery.quiet_seconds)
    assert (104, "127.0.0.1", 2.0) == (given.dimse.port, given.dimse.bind, given.delivery.quiet_seconds)
    assert (tmp_path / "spool", f"{tmp_path.as_uri()}/objects") == (plain.spool.dir, plain.delivery.store_url)


def test_settings_of_the_file_are_peers_rules_and_limits(tmp_path: Path):
    """Everything an edge has is taken, and options of the command go before it."""
    (tmp_path / "edge.toml").write_text(
        """
        [dimse]
        ae_title = "LOCAL"
        port = 4242
        bind = "192.0.2.1"
        calling_ae_titles = ["CT1"]
        networks = ["192.0.2.0/24"]
        [spool]
        refuse_below_bytes = 1000
        [delivery]
        max_bytes_per_second = 5
        [[delivery.priorities]]
        modality = "CT"
        rank = 3
        [commitment.peers.CT1]
        host = "192.0.2.7"
        port = 104
        """
    )
    found = load_edge_settings(tmp_path, bind="127.0.0.1")
    assert ("LOCAL", 4242, "127.0.0.1", ("CT1",)) == (
        found.dimse.ae_title,
        found.dimse.port,
        found.dimse.bind,
        found.dimse.calling_ae_titles,
    )
    assert (1 << 30, 1000, 5, 3, "192.0.2.7") == (
        found.spool.slow_below_bytes,
        found.spool.refuse_below_bytes,
        found.delivery.max_bytes_per_second,
        found.delivery.priorities[0].rank,
        found.commitment.peers["CT1"].host,
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "mine"', "sets name, which `dicomflow local` sets itself"),
        ("http_port = 1", "sets http_port, which"),
        ('http_bind = "0.0.0.0"', "sets http_bind, which"),
        ('[spool]\ndir = "/srv"', "sets spool.dir, which"),
        ('[delivery]\nstore_url = "s3://images"', "sets delivery.store_url, which"),
        ("[dimse]\nprot = 104", "dimse.prot: there is no such setting; did you mean dimse.port?"),
        ("spool = 3", "sets spool, which"),
        ("[dimse", "is no TOML"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(text: str, said: str, tmp_path: Path):
    """A key that is misspelt, or is not to be set here, stops the program with its name."""
    (tmp_path / "edge.toml").write_text(text)
    with pytest.raises(PermanentError, match=r"edge\.toml") as raised:
        load_edge_settings(tmp_path)
    assert said in str(raised.value)


def test_room_of_a_volume_is_told_when_it_goes_and_when_it_is_back(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Once each, however often it is looked at."""
    caplog.set_level("INFO")
    assert [True, True] == [Room(tmp_path, 0)() for _ in range(2)]
    room = Room(tmp_path, 1 << 62)
    assert [False, False] == [room() for _ in range(2)]
    room._least_free_bytes = 0
    assert [True, True] == [room() for _ in range(2)]
    assert ["pipeline_waits_for_space", "pipeline_goes_on"] == [record.message.split()[0] for record in caplog.records]
