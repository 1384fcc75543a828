"""config.py: its defaults work, and each wrong value is told with what would be right."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from infra.app import read_settings
from infra.deploy import _tell_notes as tell_notes
from infra.errors import ConfigError
from infra.regions import HEALTHIMAGING_REGIONS, check_region
from infra.settings import load_deployment

CONFIG = Path(__file__).resolve().parents[2] / "config.py"
ZONES = {"us-east-1a": "subnet-0123456789abcdef0", "us-east-1b": "subnet-0123456789abcdef1"}
VPC = {"vpc_id": "vpc-0123456789abcdef0", "function_subnets": ZONES, "database_subnets": ZONES}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"AHLI": 1}, "AHLI: no such parameter"),
    "name": ({"CDK_APP_NAME": "1iep"}, "CDK_APP_NAME: '1iep'; it must have up to 32 letters"),
    "name with two hyphens": ({"CDK_APP_NAME": "a--b"}, "CDK_APP_NAME: 'a--b'"),
    "network": ({"VPC_CIDR": "10.0.0"}, "VPC_CIDR: "),
    "small network": ({"VPC_CIDR": "10.0.0.0/28"}, "VPC_CIDR: /28; a VPC with six subnets needs /16 to /24"),
    "tags": (
        {"RESOURCE_TAGS": {"tag_list": {str(number): "x" for number in range(46)}}},
        "RESOURCE_TAGS.tag_list: 46 tags; 45 at most, beside those that the stack sets itself",
    ),
    "tag of AWS": ({"RESOURCE_TAGS": {"tag_list": {"aws:x": "y"}}}, "names that begin with aws: are AWS's own"),
    "tag with a blank": ({"RESOURCE_TAGS": {"tag_list": {"cost centre": "y"}}}, "'cost centre'; it must have 1 to 128"),
    "tag with an at": ({"RESOURCE_TAGS": {"tag_list": {"a@b": "y"}}}, "and no blank"),
    "tag with an umlaut": ({"RESOURCE_TAGS": {"tag_list": {"Kostenträger": "y"}}}, "'Kostenträger'; it must have"),
    "tag of the stack": ({"RESOURCE_TAGS": {"tag_list": {"Application": "y"}}}, "a tag that the stack sets itself"),
    "edges that are no list": ({"EDGE_CONFIG": "edge-1"}, "EDGE_CONFIG: 'edge-1'; it must be a list of edges"),
    "edge that is no table": ({"EDGE_CONFIG": ["edge-1"]}, "EDGE_CONFIG[0]: 'edge-1'; it must be names and values"),
    "edges alike but for case": (
        {"EDGE_CONFIG": [{"Name": "CT", "device_type": "LOCAL"}, {"Name": "ct", "device_type": "LOCAL"}]},
        "Names 'CT' and 'ct' differ only in case or hyphens",
    ),
    "edges alike but for hyphens": (
        {"EDGE_CONFIG": [{"Name": "edge-1", "device_type": "LOCAL"}, {"Name": "edge1", "device_type": "EC2"}]},
        "Names 'edge-1' and 'edge1' differ only in case or hyphens",
    ),
    "proxy with a user": (
        {"DEVICE_CONFIG": {"proxy_url": "http://me:secret@proxy:3128"}},
        "'http://[user]@proxy:3128'; it must have nothing, or http:// and a proxy's host and port, without a user",
    ),
    "hosts with blanks": ({"DEVICE_CONFIG": {"proxy_excludes": "a, b"}}, "parted by commas without blanks"),
    "version of the nucleus": ({"DEVICE_CONFIG": {"nucleus_version": "2.x"}}, "a version such as 2.16.0"),
    "switch in words": ({"AHLI_CONFIG": {"ahli_enabled": "perhaps"}}, "'perhaps'; it must be True or False"),
    "number in words": ({"STORAGE_CONFIG": {"retention_days": "a year"}}, "'a year'; it must be a whole number"),
    "section that is no table": ({"DB_CONFIG": 5}, "DB_CONFIG: 5; it must be names and values"),
    "data store": ({"AHLI_CONFIG": {"datastore_id": "arn:x"}}, "'arn:x'; it must have nothing, or the 32 letters"),
    "multi-Region key": (
        {"STORAGE_CONFIG": {"kms_key_arn": f"arn:aws:kms:eu-west-1:123456789012:key/mrk-{'0' * 32}"}},
        "HealthImaging takes no multi-Region key (mrk-)",
    ),
    "edge": ({"EDGE_CONFIG": [{"Name": "a/b", "device_type": "LOCAL"}]}, "EDGE_CONFIG[0].Name: 'a/b'; it must have"),
    "edge with a name of the bucket's": (
        {"EDGE_CONFIG": [{"Name": "Imports", "device_type": "LOCAL"}]},
        "EDGE_CONFIG[0].Name: 'Imports' is reserved",
    ),
    "edge without a name": ({"EDGE_CONFIG": [{"device_type": "LOCAL"}]}, "EDGE_CONFIG[0].Name: it is missing"),
    "edges of one name": (
        {"EDGE_CONFIG": [{"Name": "a", "device_type": "LOCAL"}] * 2},
        "EDGE_CONFIG: Name 'a' is there 2 times; names are unique",
    ),
    "edge of a long name": (
        {"EDGE_CONFIG": [{"Name": "a" * 60, "device_type": "LOCAL"}]},
        "would have 72 characters, 64 at most",
    ),
    "device": (
        {"EDGE_CONFIG": [{"Name": "a", "device_type": "VM"}]},
        "EDGE_CONFIG[0].device_type: 'VM'; it must be 'LOCAL' or 'EC2'",
    ),
    "instance": (
        {"EDGE_CONFIG": [{"Name": "a", "device_type": "EC2", "instance_type": "m5.large"}]},
        "'m5.large'; it must have a Graviton type",
    ),
    "setting of an edge that there is not": (
        {"EDGE_CONFIG": [{"Name": "ct", "device_type": "LOCAL", "settings": {"dimse": {"prt": 104}}}]},
        "EDGE_CONFIG[0]: the settings of 'ct': dimse.prt: 104; there is no such parameter",
    ),
    "settings of an edge that are wrong": (
        {
            "EDGE_CONFIG": [
                {
                    "Name": "ct",
                    "device_type": "LOCAL",
                    "settings": {"name": "x", "dimse": {"port": "DICOM"}, "delivery": {"store_url": "s3://mine"}},
                }
            ]
        },
        "name is the stack's own; delivery.store_url is the stack's own; dimse.port: 'DICOM'; it must be a whole",
    ),
    "port of an instance": (
        {"EDGE_CONFIG": [{"Name": "ct", "device_type": "EC2", "settings": {"dimse": {"port": 104}}}]},
        "the settings of 'ct': dimse.port is the stack's own",
    ),
    "setting that is no JSON": (
        {"EDGE_CONFIG": [{"Name": "ct", "device_type": "LOCAL", "settings": {"dimse": {"networks": {"10.0.0.0/8"}}}}]},
        "Object of type set is not JSON serializable: write texts, numbers, True, False, lists and tables",
    ),
    "settings that a device's environment cannot hold": (
        {
            "EDGE_CONFIG": [
                {"Name": f"e{n}", "device_type": "LOCAL", "settings": {"delivery": {"proxy_excludes": "x" * 9000}}}
                for n in range(4)
            ]
        },
        "the settings of all edges have 36,",
    ),
    "imports at once": ({"AHLI_CONFIG": {"ahli_concurrent_imports": 0}}, "AHLI_CONFIG.ahli_concurrent_imports: "),
    "misspelt": ({"AHLI_CONFIG": {"ahli_enable": True}}, "AHLI_CONFIG.ahli_enable: True; there is no such parameter"),
    "database": ({"DB_CONFIG": {"db_name": "my-db"}}, "DB_CONFIG.db_name: 'my-db'; it must have up to 63 letters"),
    "pause": ({"DB_CONFIG": {"db_engine_pause": 2}}, "DB_CONFIG.db_engine_pause: 2 minutes; Aurora pauses after 5"),
    "capacity": ({"DB_CONFIG": {"max_acu_capacity": "ACU_512"}}, "DB_CONFIG.max_acu_capacity: "),
    "capacities": (
        {"DB_CONFIG": {"min_acu_capacity": "ACU_8", "max_acu_capacity": "ACU_4"}},
        "min_acu_capacity 8 is above max_acu_capacity 4",
    ),
    "key": ({"STORAGE_CONFIG": {"kms_key_arn": "alias/x"}}, "STORAGE_CONFIG.kms_key_arn: 'alias/x'; it must have"),
    "log": ({"MONITORING_CONFIG": {"log_days": 100}}, "MONITORING_CONFIG.log_days: 100 days; CloudWatch keeps logs"),
    "mail": ({"MONITORING_CONFIG": {"email": "nobody"}}, "MONITORING_CONFIG.email: 'nobody'; it must have"),
    "budget": ({"MONITORING_CONFIG": {"monthly_budget_usd": 5}}, "monthly_budget_usd needs an email to be told of"),
    "id of a zone": ({"NETWORK_CONFIG": {"zones": ["use1-az1", "use1-az2"]}}, "'use1-az1'; it must have the name of a"),
    "one zone": (
        {"NETWORK_CONFIG": {"zones": ["us-east-1a"]}},
        "NETWORK_CONFIG: zones has 1 of them; it must have two",
    ),
    "zones of two regions": (
        {"NETWORK_CONFIG": {"zones": ["us-east-1a", "us-west-2a"]}},
        "zones of us-east-1 and us-west-2; they must be of one region",
    ),
    "zones that are a text": (
        {"NETWORK_CONFIG": {"zones": "us-east-1a"}},
        "'us-east-1a'; it must be a list, in [ and ]",
    ),
    "zones beside a network": (
        {"NETWORK_CONFIG": VPC | {"zones": list(ZONES)}},
        "zones are for the VPC that is made; with vpc_id each subnet names its own",
    ),
    "id of a network": ({"NETWORK_CONFIG": VPC | {"vpc_id": "hospital"}}, "NETWORK_CONFIG.vpc_id: 'hospital'; it must"),
    "id of a subnet": (
        {"NETWORK_CONFIG": VPC | {"function_subnets": {"us-east-1a": "10.0.0.0/24"}}},
        "NETWORK_CONFIG.function_subnets.us-east-1a: '10.0.0.0/24'; it must have subnet- and 8 or 17 digits",
    ),
    "subnets without a network": (
        {"NETWORK_CONFIG": VPC | {"vpc_id": ""}},
        "function_subnets is of a VPC that is there",
    ),
    "group without a network": (
        {"NETWORK_CONFIG": {"edge_group": "sg-01234567"}},
        "edge_group is of a VPC that is there",
    ),
    "network without subnets": (
        {"NETWORK_CONFIG": {"vpc_id": "vpc-01234567"}},
        "with vpc_id, function_subnets must have a subnet at least",
    ),
    "catalog in one zone": (
        {"NETWORK_CONFIG": VPC | {"database_subnets": {"us-east-1a": "subnet-01234567"}}},
        "database_subnets must have subnets in two zones at least",
    ),
    "one group of two": (
        {"NETWORK_CONFIG": VPC | {"function_group": "sg-01234567"}},
        "function_group and database_group belong together",
    ),
    "EC2 edge without a group": (
        {
            "EDGE_CONFIG": [{"Name": "a", "device_type": "EC2"}],
            "NETWORK_CONFIG": VPC | {"function_group": "sg-01234567", "database_group": "sg-01234567"},
        },
        "NETWORK_CONFIG: edge_group is missing, for the EC2 edges",
    ),
    "EC2 edge without a way to its archive": (
        {
            "EDGE_CONFIG": [
                {
                    "Name": "a",
                    "device_type": "EC2",
                    "settings": {"archive": {"dicomweb_url": "https://pacs.example.org/dicomweb"}},
                }
            ],
            "NETWORK_CONFIG": {"private_endpoints": True},
        },
        "'a' has no way to its archive.dicomweb_url",
    ),
    "boundary": (
        {"ACCOUNT_CONFIG": {"permissions_boundary": "arn:aws:iam::123456789012:role/x"}},
        "it must have nothing, or the name or the ARN of a managed policy",
    ),
    "qualifier": (
        {"ACCOUNT_CONFIG": {"bootstrap_qualifier": "Hospital-1"}},
        "'Hospital-1'; it must have up to 10 small",
    ),
    "FIPS and acceleration": (
        {"ACCOUNT_CONFIG": {"fips_endpoints": True}, "STORAGE_CONFIG": {"transfer_acceleration": True}},
        "transfer_acceleration has no FIPS endpoint",
    ),
    "FIPS and another endpoint": (
        {"ACCOUNT_CONFIG": {"fips_endpoints": True}, "AHLI_CONFIG": {"ahli_endpoint": "https://x.example"}},
        "ahli_endpoint names an endpoint in the place of the FIPS one",
    ),
    "FIPS and private endpoints": (
        {"ACCOUNT_CONFIG": {"fips_endpoints": True}, "NETWORK_CONFIG": {"private_endpoints": True}},
        "private_endpoints has no FIPS endpoint of Lambda",
    ),
    "character set of no edge": (
        {"SITE_CHARACTER_SETS": {"edge 9": "GBK"}},
        "SITE_CHARACTER_SETS: 'edge 9' can be no Name of EDGE_CONFIG",
    ),
    "character set": (
        {"SITE_CHARACTER_SETS": {"edge-1": "ISO_IR 100\\KLINGON"}},
        "SITE_CHARACTER_SETS: 'KLINGON' is no defined term",
    ),
    "acceleration said twice": (
        {"S3_CONFIG": {"s3_acceleration": True}, "STORAGE_CONFIG": {"transfer_acceleration": False}},
        "S3_CONFIG has s3_acceleration True, STORAGE_CONFIG has transfer_acceleration False: leave one out",
    ),
    "acceleration in words": ({"S3_CONFIG": {"s3_acceleration": "perhaps"}}, "'perhaps'; it must be True or False"),
    "sample's storage misspelt": ({"S3_CONFIG": {"acceleration": True}}, "S3_CONFIG.acceleration: True; there is no"),
    "issuer": ({"SITE_ISSUERS": {"edge_9/CT": "H"}}, "SITE_ISSUERS: 'edge_9' can be no Name of EDGE_CONFIG"),
    "issuer of a long title": ({"SITE_ISSUERS": {"e/A12345678901234567": "H"}}, "is no AE title, of 1 to 16"),
    "parameter in other letters": ({"Storage_CONFIG": {}}, "Storage_CONFIG: write STORAGE_CONFIG"),
    "size of a device": (
        {"EDGE_CONFIG": [{"Name": "ct", "device_type": "LOCAL", "spool_gib": 50, "instance_type": "t4g.medium"}]},
        "'ct' is LOCAL: instance_type, spool_gib are of EC2 edges",
    ),
    "networks of a device": (
        {"EDGE_CONFIG": [{"Name": "ct", "device_type": "LOCAL", "networks": ["10.0.0.0/8"]}]},
        "networks are of EC2 edges; a LOCAL edge has `networks` of `dimse` in its `settings`",
    ),
    "ports that are one": (
        {"EDGE_CONFIG": [{"Name": "ct", "device_type": "LOCAL", "settings": {"http_port": 11112}}]},
        "http_port and dimse.port are both 11112",
    ),
    "subnet in two zones": (
        {"NETWORK_CONFIG": VPC | {"function_subnets": dict.fromkeys(ZONES, ZONES["us-east-1a"])}},
        "function_subnets has subnet-0123456789abcdef0 in two zones",
    ),
    "excludes without a proxy": ({"DEVICE_CONFIG": {"proxy_excludes": "a"}}, "proxy_excludes needs a proxy_url"),
    "port of a proxy": ({"DEVICE_CONFIG": {"proxy_url": "http://p:99999"}}, "a port is at most 65535"),
    "tags alike but for case": (
        {"RESOURCE_TAGS": {"tag_list": {"Owner": "a", "owner": "b"}}},
        "'Owner' and 'owner' differ only in case",
    ),
}


@pytest.fixture
def config() -> dict[str, Any]:
    """Give the values of config.py."""
    return {name: value for name, value in runpy.run_path(str(CONFIG)).items() if name.isupper()}


def test_config_as_it_is_deploys_what_the_seed_describes(config: dict[str, Any]):
    """The defaults are the seed's: database iep, a pause after 20 minutes, 8 to 64 ACU, imports on."""
    deployment = load_deployment(config)
    assert ("iep", 20) == (deployment.database.db_name, deployment.database.db_engine_pause)
    assert (8, 64) == (deployment.database.min_acu_capacity, deployment.database.max_acu_capacity)
    assert deployment.imports.ahli_enabled
    assert "" == deployment.imports.ahli_endpoint


SAMPLE: dict[str, Any] = {
    "CDK_APP_NAME": "iep-01",
    "VPC_CIDR": "10.10.0.0/22",
    "RESOURCE_TAGS": {"tag_list": {"purpose": "iep"}},
    "EDGE_CONFIG": [{"Name": "edge-1", "device_type": "LOCAL"}],
    "AHLI_CONFIG": {"ahli_enabled": True, "ahli_endpoint": "", "ahli_concurrent_imports": 100},
    "S3_CONFIG": {"s3_acceleration": True},
    "DB_CONFIG": {"db_name": "iep", "min_acu_capacity": 1, "max_acu_capacity": 16},
    "LAMBDA_CONFIG": {
        "DICOMProfiler": {"entry": "x", "handler": "y", "timeout": 5, "layers": ["z"], "envs": {"A": "b"}},
        "datastore": {"memory": 512},
        "DbInit": {},
        "CreateAHLIDatastore": {},
        "AHLIImport": {"reserved_concurrency": 1},
    },
}


def test_config_of_the_sample_loads_as_it_is(capsys: pytest.CaptureFixture[str]):
    """Its newest version's: acceleration is honoured, and each of its functions is told what became of it."""
    deployment = load_deployment(SAMPLE)
    assert deployment.storage.transfer_acceleration
    assert ("iep-01", 100) == (deployment.name, deployment.imports.ahli_concurrent_imports)
    assert (1, 16, 20) == (
        deployment.database.min_acu_capacity,
        deployment.database.max_acu_capacity,
        deployment.database.db_engine_pause,
    )
    tell_notes(deployment)
    notes = capsys.readouterr().err
    for function in SAMPLE["LAMBDA_CONFIG"]:
        assert f"note: LAMBDA_CONFIG is not read: {function}: " in notes
    assert "DICOMProfiler: iep-01-index reads the images and writes the catalog\n" in notes
    assert "memory, timeouts and rights of the functions are the stack's own" in notes


def test_config_of_both_has_the_one_acceleration_that_is_said():
    """STORAGE_CONFIG keeps what else it says."""
    both = SAMPLE | {"STORAGE_CONFIG": {"retention_days": 400}}
    assert (True, 400) == (
        load_deployment(both).storage.transfer_acceleration,
        load_deployment(both).storage.retention_days,
    )
    off = {name: value for name, value in SAMPLE.items() if name != "S3_CONFIG"}
    assert not load_deployment(off).storage.transfer_acceleration


def test_config_with_the_needed_alone_has_the_defaults(config: dict[str, Any]):
    """Name, network and edges are enough."""
    needed = {name: config[name] for name in ("CDK_APP_NAME", "VPC_CIDR", "EDGE_CONFIG")}
    assert load_deployment(config).database == load_deployment(needed).database


@pytest.mark.parametrize("case", WRONG)
def test_config_with_a_wrong_value_says_what_would_be_right(config: dict[str, Any], case: str):
    """Each message begins with the parameter as it is written in config.py."""
    changes, message = WRONG[case]
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        load_deployment(config | changes)
    assert str(raised.value).startswith("config.py: ")


def test_config_without_the_needed_names_all_at_once():
    """Nobody mends a file one message at a time."""
    with pytest.raises(ConfigError) as raised:
        load_deployment({})
    for name in ("CDK_APP_NAME", "VPC_CIDR", "EDGE_CONFIG"):
        assert f"{name}: is missing" in str(raised.value)


def test_region_without_healthimaging_names_those_that_have_it():
    """The seed's four regions pass and Frankfurt does not, unless nothing is imported."""
    for region in ("us-east-1", "us-west-2", "eu-west-1", "ap-southeast-2", None):
        check_region(region, with_imports=True)
    check_region("eu-central-1", with_imports=False)
    with pytest.raises(ConfigError, match="not in region eu-central-1") as raised:
        check_region("eu-central-1", with_imports=True)
    assert all(region in str(raised.value) for region in HEALTHIMAGING_REGIONS)


def test_region_without_fips_endpoints_names_those_that_have_them():
    """HealthImaging has them in two regions; without imports the rest is there in more."""
    check_region("us-west-2", with_imports=True, with_fips=True)
    check_region("us-east-2", with_imports=False, with_fips=True)
    for region, with_imports in (("eu-west-1", True), ("eu-west-1", False)):
        with pytest.raises(ConfigError, match=f"region {region}: .*FIPS endpoints in us-east-1, us-") as raised:
            check_region(region, with_imports=with_imports, with_fips=True)
        assert with_imports == ("HealthImaging, EventBridge, Lambda" in str(raised.value))


def test_zones_of_another_region_than_the_deployments_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Before anything is synthesised for them."""
    zones = CONFIG.read_text(encoding="utf-8").replace('"zones": []', '"zones": ["us-east-1a", "us-east-1b"]')
    (tmp_path / "config.py").write_text(zones, encoding="utf-8")
    monkeypatch.delenv("CDK_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    with pytest.raises(ConfigError, match="names zones of us-east-1, and the region is us-west-2"):
        read_settings(tmp_path / "config.py")


def test_sites_of_edges_that_are_gone_are_kept_and_said(config: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    """A rebuild and the deletion of a study read again what an edge delivered that is in EDGE_CONFIG no longer."""
    deployment = load_deployment(
        config | {"SITE_ISSUERS": {"gone/CT": "H"}, "SITE_CHARACTER_SETS": {"edge-1": "ISO_IR 100"}}
    )
    assert {"iep-gone/CT": "H"} == deployment.pipeline_issuers
    tell_notes(deployment)
    notes = capsys.readouterr().err
    assert "note: 'gone' of SITE_ISSUERS or SITE_CHARACTER_SETS is no Name of EDGE_CONFIG" in notes
    assert "'edge-1'" not in notes


def test_parameter_in_small_letters_beside_its_own_is_a_name_of_the_files(config: dict[str, Any]):
    """A config.py may keep a value under a name of its own."""
    assert load_deployment(config | {"vpc_cidr": "10.1.0.0/22"}).name == config["CDK_APP_NAME"]
    without = {name: value for name, value in config.items() if name != "VPC_CIDR"}
    with pytest.raises(ConfigError, match="vpc_cidr: write VPC_CIDR"):
        load_deployment(without | {"vpc_cidr": "10.1.0.0/22"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\nX = {'a': true}", "line 2: NameError: name 'true' is not defined"),
        ("X = 1 / 0", "line 1: ZeroDivisionError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("X = (", "was never closed"),
    ],
)
def test_config_that_python_cannot_run_is_told_in_a_line(tmp_path: Path, text: str, words: str):
    """Whatever config.py does, its owner sees no traceback of ours."""
    (tmp_path / "config.py").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_settings(tmp_path / "config.py")


def test_key_of_another_region_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Nothing of the stack could use it."""
    arn = "arn:aws:kms:eu-west-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"
    text = CONFIG.read_text(encoding="utf-8").replace('"kms_key_arn": ""', f'"kms_key_arn": "{arn}"')
    (tmp_path / "config.py").write_text(text, encoding="utf-8")
    monkeypatch.delenv("CDK_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    with pytest.raises(ConfigError, match="kms_key_arn is a key of eu-west-1, and the region is us-west-2"):
        read_settings(tmp_path / "config.py")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert arn == read_settings(tmp_path / "config.py").storage.kms_key_arn
