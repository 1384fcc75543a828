"""IAM against the code: each function may do what it calls and nothing more, and an edge sees no image."""

import ast
import json
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from infra.edges import read_store

STORE = "0123456789abcdef0123456789abcdef"
DICOMWEB = "https://dicom-medical-imaging.eu-west-1.amazonaws.com"
# Of HealthImaging's DICOMweb, which botocore does not know; what `archive/remote` asks for.
READING = {"GetDICOMInstance", "SearchDICOMInstances", "SearchDICOMSeries", "SearchDICOMStudies"}
SOURCE = Path(__file__).resolve().parents[2] / "src" / "dicomflow"
PIPELINE = SOURCE / "pipeline"
ROLES = {
    "index": "IndexingIndexRole",
    "plan": "PlanningPlanRole",
    "drive": "ImportsDriveRole",
    "collect": "ImportsCollectRole",
    "transfers": "TransfersRole",
    "watch": "MonitoringWatchRole",
    "migrate": "IEPAuroraMigrateRole",
    "relay": "RelayRole",
    "operator": "OperatorRole",
    "console": "OperatorConsoleRole",
    "secrets": "IEPAuroraSecretsRole",
}
MODULES = {
    "index": ("pipeline/index.py",),
    "plan": ("pipeline/plan.py",),
    "collect": (
        "pipeline/follow.py",
        "pipeline/settle.py",
        "pipeline/staging.py",
        "pipeline/tell.py",
        "healthimaging/results.py",
        "healthimaging/primary.py",
    ),
    "transfers": ("pipeline/transfers.py", "pipeline/transfer_requests.py", "pipeline/heartbeats.py"),
    "watch": ("pipeline/heartbeats.py",),
    "migrate": (),
    "relay": (),
    "operator": (),
    "console": (),
    "secrets": (),
}
MODULES["drive"] = (
    *MODULES["collect"],
    "pipeline/drive.py",
    "pipeline/claim.py",
    "pipeline/call.py",
    "pipeline/versions.py",
)
"""The modules whose calls of the store and of HealthImaging a function makes."""
RELAYED = (*MODULES["drive"], "pipeline/repair.py")
"""Those whose calls of HealthImaging the relay makes."""
STORE_CALLS = {
    "get": {"s3:GetObject"},
    "get_async": {"s3:GetObject"},
    "get_range": {"s3:GetObject"},
    "head_async": {"s3:GetObject"},
    "list": {"s3:ListBucket"},
    "put": {"s3:PutObject"},
    "copy": {"s3:GetObject", "s3:PutObject"},
    "delete": {"s3:DeleteObject"},
}
"""What S3 asks for when obstore's functions and methods are called."""
ALWAYS = {
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
}
RECEIVES = {"sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"}


def calls(modules: tuple[str, ...]) -> set[tuple[str, str]]:
    """Give the calls in some modules as pairs: on what, and which function."""
    found = set()
    for module in modules:
        for node in ast.walk(ast.parse((SOURCE / module).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                found.add((ast.unparse(node.func.value), node.func.attr))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found.add(("", node.func.id))
    return found


def store_actions(modules: tuple[str, ...]) -> set[str]:
    """Give the actions of S3 that some modules need."""
    targets = {"store", "self.store", "deps.store", "obstore"}
    needed = set()
    for target, name in calls(modules):
        if target in targets:
            needed |= STORE_CALLS[name]
        elif (target, name) == ("", "list_objects"):  # `bucket.listing`
            needed |= STORE_CALLS["list"]
        elif target == "" and name in {"read_document", "read_heartbeat"}:  # `bucket.reading`
            needed |= STORE_CALLS["get"]
    return needed


def service_actions(modules: tuple[str, ...]) -> set[str]:
    """Give the actions of HealthImaging that some modules need, by way of `healthimaging.client`."""
    client = SOURCE / "healthimaging" / "client.py"
    model = botocore.session.get_session().get_service_model("medical-imaging")
    operations = {botocore.xform_name(name): name for name in model.operation_names}
    by_function: dict[str, set[str]] = {}
    for node in ast.parse(client.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            texts = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
            attributes = [each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)]
            used = {operations[name] for name in (*texts, *attributes) if name in operations}
            by_function[node.name] = used
    called = {name for target, name in calls(modules) if target in {"", "healthimaging"}}
    return {f"medical-imaging:{operation}" for name in called for operation in by_function.get(name, ())}


def granted(template: Any, name: str) -> dict[str, dict[str, Any]]:
    """Give a function's statements by Sid."""
    statements: dict[str, dict[str, Any]] = template.statements(ROLES[name])
    return statements


def actions(statement: dict[str, Any]) -> set[str]:
    """Give a statement's actions."""
    found = statement["Action"]
    return {found} if isinstance(found, str) else set(found)


@pytest.mark.parametrize("name", ROLES)
def test_function_may_do_what_its_code_calls_and_nothing_more(template: Any, name: str):
    """The actions of its role are those of its calls, of its queue, and of being a function; not one more."""
    # HealthImaging is called through the relay, which has the rights for it; its callers have none.
    expected = ALWAYS | store_actions(MODULES[name])
    if name in {"relay", "secrets"}:
        expected = {each for each in ALWAYS if each.startswith("logs:")}
    if name == "relay":
        expected |= service_actions(RELAYED) | {"iam:PassRole", "events:PutEvents"}
    if name in {"index", "plan", "drive", "collect", "transfers"}:
        expected |= RECEIVES | {"rds-db:connect"}
    if name in {"index", "plan", "drive", "collect", "transfers", "operator", "console"}:
        expected |= {"sqs:SendMessage"}
    if name == "operator":  # whose commands are many; what they may do is named here
        expected |= {"rds-db:connect", "s3:DeleteObject", "s3:GetObject", "s3:PutObject", "kms:GenerateDataKey"}
    if name == "console":  # which looks, and tries imports again
        expected |= {"rds-db:connect", "s3:GetObject"}
    if name not in {"migrate", "relay", "secrets"}:
        expected |= {"kms:Decrypt", "s3:ListBucket"}  # without the right to list, what is missing looks forbidden
    if name in {"drive", "collect", "transfers"}:
        expected |= {"kms:GenerateDataKey", "s3:DeleteObject"}
    if name in {"index", "plan", "drive", "collect", "migrate", "operator"}:
        expected |= {"lambda:InvokeFunction"}
    if name == "secrets":
        expected |= {"secretsmanager:GetSecretValue", "kms:Decrypt"}
    found = set().union(*(actions(each) for each in granted(template, name).values()))
    assert expected == found


@pytest.mark.parametrize(
    ("name", "reads", "writes"),
    [
        ("index", {"received"}, set()),
        ("plan", {"manifests"}, set()),
        ("collect", {"imports"}, {"feedback"}),
        ("drive", {"imports", "received", "staging"}, {"feedback", "staging"}),
        ("transfers", {"received", "returns", "status"}, {"outbound"}),
    ],
)
def test_function_reaches_the_prefixes_that_it_works_on_and_no_other(
    template: Any, name: str, reads: set[str], writes: set[str]
):
    """Where, not only what: `plan` reads manifests and no image, `drive` what it copies and compares."""

    def prefixes(action: str) -> set[str]:
        of_action = [each for each in granted(template, name).values() if action in actions(each)]
        names = {suffix.removesuffix("*").rstrip("/") for each in of_action for suffix in suffixes(each)}
        assert ("iep-" in names) == ("adopted" in names)  # images, whoever put them
        return {"received" if each in {"iep-", "adopted"} else each for each in names}

    assert (reads, writes) == (prefixes("s3:GetObject"), prefixes("s3:PutObject"))


def test_store_calls_are_all_known():
    """A new kind of call of the store fails here, before it fails in the cloud."""
    for modules in MODULES.values():
        assert store_actions(modules) <= {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"}
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"} == store_actions(MODULES["drive"])


def test_service_calls_are_found_in_the_code():
    """The comparison sees the driver's calls: were it blind, every role would pass."""
    assert {
        "medical-imaging:GetDICOMImportJob",
        "medical-imaging:GetImageSet",
        "medical-imaging:SearchImageSets",
        "medical-imaging:StartDICOMImportJob",
    } == service_actions(MODULES["drive"])


def test_relay_passes_on_what_the_driver_calls():
    """A new call of the driver's is refused here, before it is refused in the cloud."""
    from dicomflow.pipeline.relay import OPERATIONS

    model = botocore.session.get_session().get_service_model("medical-imaging")
    operations = {botocore.xform_name(name): name for name in model.operation_names}
    passed = {f"medical-imaging:{operations[name]}" for name in OPERATIONS["medical-imaging"]}
    assert service_actions(RELAYED) == passed


def test_actions_are_those_that_the_services_know(template: Any):
    """Each action of a service that botocore has a model of is an operation of that model, or known to differ."""
    models = {"kms": "kms", "medical-imaging": "medical-imaging", "sqs": "sqs", "secretsmanager": "secretsmanager"}
    models |= {"iot": "iot", "logs": "logs", "ec2": "ec2"}
    wire = {"iot:Connect", "iot:Publish", "iot:Receive", "iot:Subscribe"}  # of MQTT, not of the API
    session = botocore.session.get_session()
    known = {prefix: set(session.get_service_model(name).operation_names) for prefix, name in models.items()}
    for kind in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        for properties in template.resources(kind).values():
            for statement in properties["PolicyDocument"]["Statement"]:
                for action in actions(statement) - wire - {f"medical-imaging:{name}" for name in READING}:
                    prefix, _, operation = action.partition(":")
                    if prefix in known and not operation.endswith("*"):
                        assert operation in known[prefix], action


def test_no_statement_allows_everything(template: Any):
    """No action is a wildcard, and none but those that know no resource is allowed on all."""
    allowed_on_all = ALWAYS | {
        "greengrass:GetComponentVersionArtifact",
        "iot:AttachPolicy",
        "iot:AttachThingPrincipal",
        "iot:CreateKeysAndCertificate",
        "iot:DescribeEndpoint",
        "sts:GetCallerIdentity",
    }
    for kind in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        for properties in template.resources(kind).values():
            for statement in properties["PolicyDocument"]["Statement"]:
                assert not any(action.endswith(":*") or action == "*" for action in actions(statement))
                if statement["Resource"] == "*":
                    assert actions(statement) <= allowed_on_all


def test_driver_passes_one_role_to_one_service(template: Any):
    """iam:PassRole is for the data access role and HealthImaging alone."""
    statement = granted(template, "relay")["PassRole"]
    assert "HealthImagingDataAccess" in json.dumps(statement["Resource"])
    assert {"StringEquals": {"iam:PassedToService": "medical-imaging.amazonaws.com"}} == statement["Condition"]


def test_events_reach_the_accounts_bus_under_our_name_alone(template: Any):
    """The relay puts events of no other source, onto one bus."""
    from dicomflow.pipeline.outbox import SOURCE

    statement = granted(template, "relay")["Tell"]
    assert "event-bus/default" in json.dumps(statement["Resource"])
    assert {"StringEquals": {"events:source": SOURCE}} == statement["Condition"]


def test_healthimaging_reads_what_was_received_and_writes_results(template: Any):
    """The data access role is HealthImaging's for this account, and reaches no manifest and no feedback."""
    statements = template.statements("HealthImagingDataAccess")
    assert ["iep-*", "adopted/*", "staging/*"] == suffixes(statements["Read"])
    assert ["imports/*"] == suffixes(statements["Write"])
    (role,) = [each for name, each in template.resources("AWS::IAM::Role").items() if "DataAccess" in name]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert {"Service": "medical-imaging.amazonaws.com"} == trust["Principal"]
    assert {"aws:SourceAccount"} == trust["Condition"]["StringEquals"].keys()


@pytest.mark.parametrize(("policy", "device"), [("Edgesedge1access", "iep-edge-1"), ("Edgeedge2Role", "iep-edge-2")])
def test_edge_writes_its_own_keys_and_reads_only_what_goes_to_its_site(template: Any, policy: str, device: str):
    """An edge that is stolen shows nothing of what was sent, and touches no other edge's."""
    statements = template.statements(policy)
    assert {"s3:AbortMultipartUpload", "s3:PutObject"} == actions(statements["Deliver"])
    own = [f"{device}/*", f"manifests/{device}/*", f"status/{device}.json", f"returns/{device}/*"]
    assert own == suffixes(statements["Deliver"])
    assert {"s3:GetObject"} == actions(statements["Hear"])
    assert [f"feedback/{device}/*", f"outbound/{device}/*", f"status/{device}.json"] == suffixes(statements["Hear"])
    on_bucket = [each for each in statements.values() if "iepdicombucket" in json.dumps(each["Resource"])]
    assert [statements["Deliver"], statements["Hear"]] == on_bucket


def test_edge_reads_the_data_store_that_its_settings_name_and_no_other(template: Any):
    """It may search and get instances, as its program does; an edge without one has no such right."""
    statement = template.statements("Edgeedge2Role")["Read"]
    assert {f"medical-imaging:{name}" for name in READING} == actions(statement)
    arns = [json.dumps(each) for each in statement["Resource"]]
    assert all("medical-imaging:eu-west-1:" in arn and f":datastore/{STORE}" in arn for arn in arns)
    assert "Read" not in template.statements("Edgesedge1access")


@pytest.mark.parametrize(
    ("archive", "store"),
    [
        ({"dicomweb_url": f"{DICOMWEB}/datastore/{STORE}"}, ("eu-west-1", STORE)),
        ({"dicomweb_url": f"{DICOMWEB}/datastore/{STORE}/"}, ("eu-west-1", STORE)),
        ({"dicomweb_url": f"{DICOMWEB}/datastore/{STORE}", "dicomweb_authorization_file": "token"}, None),
        ({"dicomweb_url": f"https://pacs.example.org/datastore/{STORE}"}, None),
        ({"dicomweb_url": f"{DICOMWEB}/datastore/*"}, None),
        ({}, None),
    ],
)
def test_right_to_read_is_for_requests_that_are_signed(archive: dict[str, str], store: Any):
    """An archive of ours, a bearer token and what is no data store need none."""
    assert store == read_store({"archive": archive})


def test_edge_keys_are_those_that_its_program_writes():
    """The prefixes in the policies are the program's own, whatever an edge is called."""
    from dicomflow.bucket.keys import (
        MANIFEST_PREFIX,
        feedback_key,
        heartbeat_key,
        pending_key,
        returns_key,
        transfer_prefix,
    )

    assert "manifests/" == MANIFEST_PREFIX
    assert "feedback/iep-edge-1/d.json" == feedback_key("iep-edge-1", "d")
    assert "status/iep-edge-1.json" == heartbeat_key("iep-edge-1")
    assert "outbound/iep-edge-1/pending.json" == pending_key("iep-edge-1")
    assert "outbound/iep-edge-1/t/" == transfer_prefix("iep-edge-1", "t")
    assert "returns/iep-edge-1/t.json" == returns_key("iep-edge-1", "t")


def test_installer_can_make_no_role_and_widen_none(template: Any):
    """Who installs an edge gets no right that the stack did not give to edges."""
    statements = template.statements("IEPDevicesInstaller")
    found = set().union(*(actions(each) for each in statements.values()))
    assert not {"iam:CreateRole", "iam:CreatePolicy", "iam:PutRolePolicy", "iam:PassRole"} & found
    attach = statements["Attach"]
    assert "iep-*-GG-RoleAccess" in json.dumps(attach["Condition"]["ArnLike"]["iam:PolicyARN"])


def suffixes(statement: dict[str, Any]) -> list[str]:
    """Give the key patterns of a statement's resources in the bucket."""
    found = statement["Resource"]
    resources = found if isinstance(found, list) else [found]
    return [each["Fn::Join"][1][-1].removeprefix("/") for each in resources]
