"""The template: what would lose an image, open a door or cost money if it changed unseen."""

import json
from collections import Counter
from typing import Any

import pytest

from dicomflow.bucket.keys import IMPORT_OUTPUT_PREFIX, MANIFEST_PREFIX, REPAIR_PREFIX
from infra.guard import refused_changes

FUNCTIONS = ("index", "plan", "drive", "collect", "transfers", "migrate", "watch")
QUEUES = ("index", "plan", "drive", "collect", "transfers")
RETAINED = {"AWS::HealthImaging::Datastore", "AWS::KMS::Key"}


def function(template: Any, name: str) -> dict[str, Any]:
    """Give a function's properties."""
    properties: dict[str, Any] = template.one("AWS::Lambda::Function", FunctionName=f"iep-{name}")
    return properties


def test_bucket_is_private_encrypted_and_keeps_versions(template: Any):
    """The landing bucket is closed to the world, encrypted with the stack's key, and loses no overwritten object."""
    bucket = template.resource("iepbucketsiepdicombucket")
    properties = bucket["Properties"]
    assert {True} == set(properties["PublicAccessBlockConfiguration"].values())
    rule = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]
    assert rule["BucketKeyEnabled"]
    assert "aws:kms" == rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"]
    assert {"Status": "Enabled"} == properties["VersioningConfiguration"]
    assert "LoggingConfiguration" in properties
    assert "Delete" == bucket["DeletionPolicy"]  # which fails while it holds anything
    assert "Custom::S3AutoDeleteObjects" not in json.dumps(template.document)


def test_bucket_refuses_what_is_not_tls(template: Any):
    """Its policy denies every call without TLS, and with one older than 1.2."""
    policies = template.resources("AWS::S3::BucketPolicy")
    (policy,) = [each for name, each in policies.items() if name.startswith("iepbucketsiepdicombucket")]
    denied = [each["Condition"] for each in policy["PolicyDocument"]["Statement"] if each["Effect"] == "Deny"]
    assert {"Bool": {"aws:SecureTransport": "false"}} in denied
    assert {"NumericLessThan": {"s3:TlsVersion": 1.2}} in denied


def test_bucket_tells_of_images_and_documents_and_of_nothing_else(template: Any):
    """Only what edges write, and what was adopted, reaches a queue: what the pipeline puts itself begins otherwise."""
    configuration = template.resource("iepbucketsiepdicombucket")["Properties"]["NotificationConfiguration"]
    told = {
        tuple(rule["Value"] for rule in each["Filter"]["S3Key"]["Rules"]): each["Queue"]["Fn::GetAtt"][0]
        for each in configuration["QueueConfigurations"]
    }
    images = {("iep-", ".dcm"), ("adopted/", ".dcm")}
    assert {*images, ("manifests/", ".json"), ("returns/", ".json")} == told.keys()
    assert all(told[each].startswith("IndexingIndexQueue") for each in images)
    assert told["manifests/", ".json"].startswith("PlanningPlanQueue")
    assert told["returns/", ".json"].startswith("TransfersTransfersQueue")
    assert not any(
        prefix.startswith("iep-") for prefix in ("outbound/", "staging/", "feedback/", "imports/", "status/")
    )


def test_bucket_forgets_what_nobody_needs_any_more(template: Any):
    """Copies for jobs go after a week, aborted uploads too; received objects stay unless a retention is set."""
    rules = template.resource("iepbucketsiepdicombucket")["Properties"]["LifecycleConfiguration"]["Rules"]
    days = {rule.get("Prefix", ""): rule.get("ExpirationInDays") for rule in rules}
    assert {
        "": None,
        "iep-": None,
        "adopted/": None,
        "staging/": 7,
        "feedback/": 400,
        "outbound/": 14,
        "returns/": 90,
    } == days
    read_by_a_rebuild = ("iep-edge-1/x.dcm", MANIFEST_PREFIX, IMPORT_OUTPUT_PREFIX, REPAIR_PREFIX)
    for prefix, after in days.items():
        assert after is None or not any(each.startswith(prefix) for each in read_by_a_rebuild), prefix
    (general,) = [rule for rule in rules if "Prefix" not in rule]
    assert {"DaysAfterInitiation": 7} == general["AbortIncompleteMultipartUpload"]


def test_bucket_with_a_retention_has_no_rule_for_what_was_received(small: Any, adopted: Any):
    """A rule deletes what was never imported; the driver deletes by the catalog, and may."""
    for each, stack in ((small, "Other-1-"), (adopted, "iep-01-")):
        rules = each.resource("iepbucketsiepdicombucket")["Properties"]["LifecycleConfiguration"]["Rules"]
        expiring = {rule.get("Prefix", "") for rule in rules if "ExpirationInDays" in rule}
        assert not expiring & {stack, "manifests/", "status/", ""}
    drive = adopted.one("AWS::Lambda::Function", FunctionName="iep-01-drive")
    assert "100" == drive["Environment"]["Variables"]["DICOMFLOW_RETENTION_DAYS"]
    assert "s3:DeleteObject" == adopted.statements("ImportsDriveRole")["Expire"]["Action"]
    for name in ("Indexing", "Planning"):
        assert "Expire" not in adopted.statements(f"{name}{'Index' if name == 'Indexing' else 'Plan'}Role")


def test_bucket_archives_large_images_that_stay(template: Any, small: Any, adopted: Any):
    """After a month, from 256 KB on, to a class that is read without a restore; not where they go before it pays."""
    rules = template.resource("iepbucketsiepdicombucket")["Properties"]["LifecycleConfiguration"]["Rules"]
    archiving = {rule["Prefix"]: rule for rule in rules if "Transitions" in rule}
    assert {"iep-", "adopted/"} == archiving.keys()
    for rule in archiving.values():
        assert "262143" == str(rule["ObjectSizeGreaterThan"])
        assert [{"StorageClass": "GLACIER_IR", "TransitionInDays": 30}] == rule["Transitions"]
    for each in (small, adopted):
        rules = each.resource("iepbucketsiepdicombucket")["Properties"]["LifecycleConfiguration"]["Rules"]
        assert not [rule for rule in rules if "Transitions" in rule]


@pytest.mark.parametrize("name", QUEUES)
def test_queue_keeps_messages_through_an_outage(template: Any, name: str):
    """Two weeks, hidden for six times the function's timeout; six hours of calls that time out are no dead letter."""
    queue = template.one("AWS::SQS::Queue", QueueName=f"iep-{name}")
    assert 14 * 86_400 == queue["MessageRetentionPeriod"]
    assert 6 * function(template, name)["Timeout"] == queue["VisibilityTimeout"]
    assert queue["RedrivePolicy"]["maxReceiveCount"] * queue["VisibilityTimeout"] >= 6 * 3600
    assert 100 == queue["RedrivePolicy"]["maxReceiveCount"]
    assert queue["VisibilityTimeout"] <= {"index": 360, "plan": 360, "drive": 3600}.get(name, 1800)
    assert queue["SqsManagedSseEnabled"]
    assert 14 * 86_400 == template.one("AWS::SQS::Queue", QueueName=f"iep-{name}-dead")["MessageRetentionPeriod"]


@pytest.mark.parametrize("name", QUEUES)
def test_function_reports_failures_message_by_message(template: Any, name: str):
    """One bad object does not bring the other ninety-nine of its batch back."""
    mappings = template.resources("AWS::Lambda::EventSourceMapping").values()
    (mapping,) = [each for each in mappings if f"{name.capitalize()}Function" in json.dumps(each["FunctionName"])]
    assert ["ReportBatchItemFailures"] == mapping["FunctionResponseTypes"]
    assert mapping["ScalingConfig"]["MaximumConcurrency"] >= 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_runs_on_arm_in_the_vpc_with_a_role_of_its_own(template: Any, name: str):
    """Python 3.13 on Graviton, in subnets of ours, with a role that no other has and a log that is encrypted."""
    properties = function(template, name)
    assert ("python3.13", ["arm64"]) == (properties["Runtime"], properties["Architectures"])
    assert f"dicomflow.pipeline.lambdas.{name}" == properties["Handler"]
    assert 2 == len(properties["VpcConfig"]["SubnetIds"])
    roles = [json.dumps(each["Role"]) for each in template.resources("AWS::Lambda::Function").values()]
    assert 1 == roles.count(json.dumps(properties["Role"]))
    log = template.one("AWS::Logs::LogGroup", LogGroupName=f"/aws/lambda/iep-{name}")
    assert 365 == log["RetentionInDays"]
    assert "KmsKeyId" in log


@pytest.mark.parametrize("name", QUEUES)
def test_function_waits_for_the_migration(template: Any, name: str):
    """No function of a release runs on the schema of the one before."""
    (resource,) = [
        each
        for each in template.all_resources.values()
        if each.get("Properties", {}).get("FunctionName") == f"iep-{name}"
    ]
    assert any(each.startswith("IEPAuroraSchema") for each in resource["DependsOn"])


@pytest.mark.parametrize("name", QUEUES)
def test_function_environment_is_one_that_the_program_takes(template: Any, name: str, monkeypatch: pytest.MonkeyPatch):
    """The settings of each function are read by the program itself, which refuses names it does not know."""
    from dicomflow.pipeline.settings import load_settings

    told = function(template, name)["Environment"]["Variables"]
    for variable, value in told.items():
        if variable.startswith("DICOMFLOW_"):
            monkeypatch.setenv(variable, resolved(value))
    settings = load_settings()
    assert settings.database_iam
    assert {"iep-edge-1": "HOSPITAL", "iep-edge-2/CT1": "CLINIC"} == settings.issuers
    assert {"iep-edge-1": "GBK"} == settings.character_sets
    assert settings.imports.enabled
    assert 20 == settings.imports.concurrent
    assert (name == "transfers") == (settings.queues.drive is None)
    if name != "transfers":
        assert ("default", True) == (settings.events.bus, "events" in settings.relay.services)
    assert name in settings.queues.urls()  # its own, to let failed messages come sooner
    assert "/opt/rds.pem" == told["PGSSLROOTCERT"]


def test_migration_environment_is_one_that_the_program_takes(template: Any, monkeypatch: pytest.MonkeyPatch):
    """The migration's own settings are complete."""
    from dicomflow.pipeline.migration import load_migration_settings

    for variable, value in function(template, "migrate")["Environment"]["Variables"].items():
        monkeypatch.setenv(variable, resolved(value))
    settings = load_migration_settings()
    assert "dicomflow" == settings.user
    assert settings.database_url.startswith("postgresql://dicomflow_admin@")


def resolved(value: Any) -> str:
    """Give a text that stands for a value of the template's."""
    if isinstance(value, str):
        return value
    ((operator, arguments),) = value.items()
    if operator == "Fn::Join":
        return str(arguments[0]).join(resolved(part) for part in arguments[1])
    if operator == "Fn::GetAtt" and arguments[1] == "DatastoreId":
        return "0123456789abcdef0123456789abcdef"
    if operator == "Fn::GetAtt" and arguments[1] == "Endpoint.Address":
        return "cluster.example"
    return "bucket-or-name"


def test_catalog_pauses_and_is_kept(template: Any):
    """Nothing to do for twenty minutes costs nothing, and a deleted stack leaves a snapshot."""
    cluster = template.one("AWS::RDS::DBCluster")
    expected = {"MinCapacity": 0, "MaxCapacity": 64, "SecondsUntilAutoPause": 1200}
    assert expected == cluster["ServerlessV2ScalingConfiguration"]
    for property_name in ("DeletionProtection", "StorageEncrypted", "EnableHttpEndpoint"):
        assert cluster[property_name]
    assert cluster["EnableIAMDatabaseAuthentication"]
    assert 35 == cluster["BackupRetentionPeriod"]
    assert ("iep", "iep-iepauroradb") == (cluster["DatabaseName"], cluster["DBClusterIdentifier"])
    (kept,) = [each for each in template.all_resources.values() if each["Type"] == "AWS::RDS::DBCluster"]
    assert "Snapshot" == kept["DeletionPolicy"]
    assert {} == template.resources("AWS::RDS::DBProxy")  # which would keep it awake


def test_catalog_does_not_stay_awake_for_a_frozen_function(template: Any):
    """An idle connection is closed after a minute, and no log line has a patient's name in it."""
    parameters = template.one("AWS::RDS::DBClusterParameterGroup")["Parameters"]
    assert 60_000 == int(parameters["idle_session_timeout"])
    assert "1" == parameters["rds.force_ssl"]
    assert ("none", "panic") == (parameters["log_statement"], parameters["log_min_error_statement"])


def test_catalog_without_a_pause_has_the_least_capacity(small: Any):
    """db_engine_pause 0 keeps it awake at min_acu_capacity."""
    cluster = small.one("AWS::RDS::DBCluster")
    assert {"MinCapacity": 0.5, "MaxCapacity": 4} == cluster["ServerlessV2ScalingConfiguration"]
    assert not cluster["DeletionProtection"]


def test_catalog_takes_connections_from_functions_only(template: Any):
    """Neither an address nor a network reaches the database."""
    (rule,) = template.resources("AWS::EC2::SecurityGroupIngress").values()
    assert (5432, 5432) == (rule["FromPort"], rule["ToPort"])
    assert "FunctionGroup" in json.dumps(rule["SourceSecurityGroupId"])


def test_images_stay_when_the_stack_goes(template: Any):
    """The data store and the key that opens it and every backup are kept."""
    for resource in template.all_resources.values():
        if resource["Type"] in RETAINED:
            assert "RetainExceptOnCreate" == resource["DeletionPolicy"]
            assert "Retain" == resource["UpdateReplacePolicy"]


def test_first_deployment_that_fails_leaves_nothing(template: Any):
    """What the stack keeps for good it keeps only once it was made: a rollback deletes it, and can be tried again."""
    kept = {name: each for name, each in template.all_resources.items() if "Retain" == each.get("DeletionPolicy")}
    assert {} == kept


def test_data_store_has_no_property_that_an_edit_changes(template: Any, small: Any):
    """Name and key alone, neither tags of its own nor of its stack, with imports on or off, under one name."""
    for each, key in ((template, "DataKey"), (small, None)):
        store = each.resource("HealthImagingDatastore")
        assert {"DatastoreName", "KmsKeyArn"} == store["Properties"].keys()
        assert key is None or key in json.dumps(store["Properties"]["KmsKeyArn"])
        manifest = json.loads((each.paths[0].parent / "manifest.json").read_text())
        (stack,) = [found for found in manifest["artifacts"].values() if found["type"] == "aws:cloudformation:stack"]
        assert not stack["properties"].get("tags")  # which CloudFormation would hand down


def test_data_store_without_imports_is_made_only_where_the_service_is(small: Any):
    """Imports that are switched off keep the store, and a region without HealthImaging gets none."""
    store = small.resource("HealthImagingDatastore")
    assert "Fn::Or" in small.document["Conditions"][store["Condition"]]


def test_data_store_of_config_is_adopted(adopted: Any):
    """With `datastore_id` nothing is made, and every function is told that store."""
    assert {} == adopted.resources("AWS::HealthImaging::Datastore")
    functions = adopted.resources("AWS::Lambda::Function").values()
    told = [
        each["Environment"]["Variables"].get("DICOMFLOW_IMPORTS__DATASTORE_ID")
        for each in functions
        if "Environment" in each
    ]
    assert 7 == told.count("0123456789abcdef0123456789abcdef")


def test_jobs_of_an_older_data_store_may_be_followed(template: Any):
    """The functions that follow jobs may ask about, and repeat a start in, any store of the account and region."""
    statements = template.statements("RelayRole")
    assert ":datastore/*" in json.dumps(statements["Follow"]["Resource"])
    assert ":datastore/*/imageset/*" in json.dumps(statements["ImageSets"]["Resource"])
    assert ":datastore/*" in json.dumps(statements["Start"]["Resource"])


def test_stack_is_protected_as_long_as_its_database_is(template: Any, small: Any):
    """CloudFormation refuses to delete the stack until `deletion_protection` is off."""
    for each, expected in ((template, True), (small, None)):
        manifest = json.loads((each.paths[0].parent / "manifest.json").read_text())
        (stack,) = [found for found in manifest["artifacts"].values() if found["type"] == "aws:cloudformation:stack"]
        assert expected == (stack["properties"].get("terminationProtection") or None)


def test_budget_is_replaced_when_its_address_changes(template: Any):
    """Its subscribers cannot change in place, and two budgets of one name cannot be: so it has none of ours."""
    assert "BudgetName" not in template.one("AWS::Budgets::Budget")["Budget"]


def test_migration_waits_for_the_way_to_its_secret(template: Any):
    """The first deployment migrates when the catalog is there, and the gateway by which its secret is read."""
    needed = schema(template)["DependsOn"]
    for kind in (
        "AWS::RDS::DBCluster",
        "AWS::EC2::NatGateway",
        "AWS::EC2::EgressOnlyInternetGateway",
        "AWS::EC2::Route",
    ):
        assert set(template.resources(kind)) <= set(needed)


def schema(template: Any) -> dict[str, Any]:
    """Give the custom resource of the schema."""
    (found,) = [each for each in template.all_resources.values() if each["Type"] == "Custom::CatalogSchema"]
    return dict(found)


def test_nothing_polls_the_catalog(template: Any):
    """The only schedule is that of the function that reads heartbeats, which knows no database."""
    rules = template.resources("AWS::Events::Rule").values()
    (scheduled,) = [rule for rule in rules if "ScheduleExpression" in rule]
    assert "MonitoringWatch" in json.dumps(scheduled["Targets"])
    assert "DICOMFLOW_DATABASE_URL" not in function(template, "watch")["Environment"]["Variables"]


def test_job_events_are_those_of_this_data_store(template: Any):
    """Another data store's jobs of the same account wake nobody."""
    (rule,) = [rule for rule in template.resources("AWS::Events::Rule").values() if "EventPattern" in rule]
    pattern = rule["EventPattern"]
    assert ["aws.medical-imaging"] == pattern["source"]
    assert {"Import Job In Progress", "Import Job Completed", "Import Job Failed"} == set(pattern["detail-type"])
    assert "DatastoreId" in json.dumps(pattern["detail"])


def test_deployment_without_imports_has_nothing_of_healthimaging(small: Any):
    """ahli_enabled False leaves indexing and planning, and needs no region of HealthImaging's."""
    text = json.dumps(small.document)
    assert "medical-imaging" not in text
    assert "HealthImagingRegion" not in small.document["Rules"]
    assert {f"Other-1-{name}{dead}" for name in ("index", "plan", "transfers") for dead in ("", "-dead")} == {
        queue["QueueName"] for queue in small.resources("AWS::SQS::Queue").values()
    }
    variables = small.one("AWS::Lambda::Function", FunctionName="Other-1-plan")["Environment"]["Variables"]
    assert "false" == variables["DICOMFLOW_IMPORTS__ENABLED"]


def test_region_is_checked_when_it_is_deployed(template: Any):
    """A synthesis may not know the region; CloudFormation then refuses the wrong one, in words."""
    (assertion,) = template.document["Rules"]["HealthImagingRegion"]["Assertions"]
    assert "us-east-1" in json.dumps(assertion["Assert"])
    assert "set ahli_enabled" in assertion["AssertDescription"]


def test_private_network_has_endpoints_in_the_place_of_the_internet(small: Any):
    """private_endpoints: no gateway to the internet at all, and one endpoint in one zone, for what calls all else."""
    for kind in ("NatGateway", "InternetGateway", "EgressOnlyInternetGateway", "EIP"):
        assert {} == small.resources(f"AWS::EC2::{kind}")
    endpoints = small.resources("AWS::EC2::VPCEndpoint").values()
    (interface,) = [each for each in endpoints if each["VpcEndpointType"] == "Interface"]
    assert ".lambda" in json.dumps(interface["ServiceName"])
    assert 1 == len(interface["SubnetIds"])
    for name in ("index", "plan"):
        told = small.one("AWS::Lambda::Function", FunctionName=f"Other-1-{name}")["Environment"]["Variables"]
        assert '["events", "sqs"]' == told["DICOMFLOW_RELAY__SERVICES"]
        assert "AWS_ENDPOINT_URL_LAMBDA" not in told
    relay = small.statements("RelayRole")
    assert "sqs:ChangeMessageVisibility" == relay["PutOff"]["Action"]


def test_network_without_edges_on_ec2_costs_nothing(adopted: Any):
    """No NAT gateway, address or interface endpoint: what has IPv6 is reached through an egress-only gateway."""
    for kind in ("NatGateway", "InternetGateway", "VPCGatewayAttachment", "EIP"):
        assert {} == adopted.resources(f"AWS::EC2::{kind}")
    assert ["Gateway"] == [each["VpcEndpointType"] for each in adopted.resources("AWS::EC2::VPCEndpoint").values()]
    routes = [each for each in adopted.resources("AWS::EC2::Route").values() if "EgressOnlyInternetGatewayId" in each]
    assert ["::/0", "::/0"] == [each["DestinationIpv6CidrBlock"] for each in routes]
    groups = adopted.resources("AWS::EC2::SecurityGroup").values()
    (group,) = [each for each in groups if each["GroupDescription"] == "Functions of the pipeline"]
    assert {"0.0.0.0/0", "::/0"} == {each.get("CidrIp") or each["CidrIpv6"] for each in group["SecurityGroupEgress"]}


@pytest.mark.parametrize("name", [*QUEUES, "migrate"])
def test_function_in_the_vpc_reaches_lambda_and_sqs_by_ipv6(template: Any, name: str):
    """What has no IPv6 by the relay, HealthImaging and EventBridge; no other service is asked under a name with it."""
    properties = function(template, name)
    assert properties["VpcConfig"]["Ipv6AllowedForDualStack"]
    told = properties["Environment"]["Variables"]
    for service in ("LAMBDA", "SQS"):
        assert f"https://{service.lower()}." in json.dumps(told[f"AWS_ENDPOINT_URL_{service}"])
        assert ".api.aws" in json.dumps(told[f"AWS_ENDPOINT_URL_{service}"])
    assert "AWS_USE_DUALSTACK_ENDPOINT" not in told
    services = dict.fromkeys(("drive", "collect"), '["events", "medical-imaging"]')
    services |= dict.fromkeys(("index", "plan"), '["events"]')
    assert services.get(name) == told.get("DICOMFLOW_RELAY__SERVICES")
    assert (name == "migrate") == ("DICOMFLOW_MIGRATION__RELAY" in told)


@pytest.mark.parametrize("name", ["relay", "secrets"])
def test_function_outside_the_vpc_can_be_asked_by_its_callers_alone(template: Any, name: str):
    """It has no interface, no catalog and no bucket; who asks it is named in the asking function's role."""
    properties = function(template, name)
    assert "VpcConfig" not in properties
    assert "dicomflow.pipeline.lambdas.relay" == properties["Handler"]
    assert not {"DICOMFLOW_DATABASE_URL", "DICOMFLOW_STORE_URL"} & properties["Environment"]["Variables"].keys()
    tellers = {"ImportsDriveRole", "ImportsCollectRole", "IndexingIndexRole", "PlanningPlanRole"}
    callers = tellers if name == "relay" else {"IEPAuroraMigrateRole"}
    asking = "RelayFunction" if name == "relay" else "IEPAuroraSecretsFunction"
    roles = ("ImportsDriveRole", "ImportsCollectRole", "IEPAuroraMigrateRole", "IndexingIndexRole", "PlanningPlanRole")
    found = {role for role in roles if asking in json.dumps(template.statements(role))}
    assert callers == found


def test_network_can_be_switched_later(template: Any, small: Any, adopted: Any):
    """Private or not, with edges on EC2 or without: the subnets of functions and database are the same ones."""

    def subnets(each: Any) -> dict[str, Any]:
        return {
            name: (properties["CidrBlock"], properties["AvailabilityZone"])
            for name, properties in each.resources("AWS::EC2::Subnet").items()
            if "gateway" not in name
        }

    assert 4 == len(subnets(template))
    assert subnets(template) == subnets(small) == subnets(adopted)
    for each in (small, adopted):
        network = {
            name: value for name, value in template.document["Resources"].items() if name.startswith("NetworkVpc")
        }
        changed = {name: each.document["Resources"].get(name, value) for name, value in network.items()}
        assert [] == refused_changes({"Resources": network}, {"Resources": changed})


def test_network_has_one_way_out_and_s3_beside_it(template: Any):
    """Images do not pass through the NAT gateway of edges on EC2, which charges by the byte."""
    assert 1 == len(template.resources("AWS::EC2::NatGateway"))
    endpoint = template.one("AWS::EC2::VPCEndpoint", VpcEndpointType="Gateway")
    assert len(endpoint["RouteTableIds"]) >= 2


def test_resources_are_tagged(template: Any):
    """Everything that can have a tag has the customer's and the stack's."""
    untagged = []
    for name, resource in template.all_resources.items():
        tags = resource.get("Properties", {}).get("Tags")
        if isinstance(tags, list) and not {"purpose", "application"} <= {each["Key"] for each in tags}:
            untagged.append(name)
        if isinstance(tags, dict) and not {"purpose", "application"} <= tags.keys():
            untagged.append(name)
        if tags is None and resource["Type"] in {"AWS::S3::Bucket", "AWS::SQS::Queue", "AWS::Lambda::Function"}:
            untagged.append(name)
    assert [] == untagged


def test_alarm_for_each_way_to_lose_sight_of_an_image(template: Any):
    """Dead letters, failing functions, failed imports, unreadable objects, a full catalog, and silent edges."""
    alarms = {each["AlarmName"]: each for each in template.resources("AWS::CloudWatch::Alarm").values()}
    expected = {f"iep-{name}-dead-letters" for name in QUEUES} | {f"iep-{name}-errors" for name in FUNCTIONS}
    expected |= {"iep-imports-failed", "iep-import-backlog", "iep-objects-unreadable", "iep-catalog-capacity"}
    expected |= {"iep-transfers-failed", "iep-images-missing", "iep-sources-not-compared", "iep-destination-waits"}
    expected |= {"iep-edge-1-silent", "iep-edge-2-silent", "iep-index-oldest-message"}
    assert expected <= alarms.keys()
    assert all(alarm["AlarmActions"] and alarm["OKActions"] for alarm in alarms.values())
    assert {"notBreaching"} == {
        alarm["TreatMissingData"] for name, alarm in alarms.items() if not name.endswith("-silent")
    }


@pytest.mark.parametrize(
    ("name", "metric"), [("images-missing", "ImagesMissing"), ("sources-not-compared", "SourcesNotCompared")]
)
def test_alarm_of_nightly_comparisons_goes_off_at_the_first_value_above_none(template: Any, name: str, metric: str):
    """The watch writes the present state every five minutes, so that one period is enough, and a maximum of it."""
    alarm = template.one("AWS::CloudWatch::Alarm", AlarmName=f"iep-{name}")
    assert (metric, "Maximum", 0, 1, "GreaterThanThreshold") == (
        alarm["MetricName"],
        alarm["Statistic"],
        alarm["Threshold"],
        alarm["EvaluationPeriods"],
        alarm["ComparisonOperator"],
    )


@pytest.mark.parametrize("edge", ["edge-1", "edge-2"])
def test_edge_that_never_reported_is_told_of(template: Any, edge: str):
    """It writes no value at all, and no value for two periods raises its alarm."""
    alarm = template.one("AWS::CloudWatch::Alarm", AlarmName=f"iep-{edge}-silent")
    assert ("breaching", 2) == (alarm["TreatMissingData"], alarm["EvaluationPeriods"])


def test_metrics_are_those_that_the_pipeline_writes(template: Any):
    """An alarm on a metric that nobody writes never goes off."""
    from dicomflow.pipeline.metrics import NAMESPACE, Name

    written = {name.cloudwatch for name in Name}
    ours = [each for each in template.resources("AWS::CloudWatch::Alarm").values() if each["Namespace"] == NAMESPACE]
    assert ours
    assert {alarm["MetricName"] for alarm in ours} <= written
    for alarm in ours:
        assert {"Name": "service", "Value": "iep"} in alarm["Dimensions"]
    services = {
        each["Environment"]["Variables"].get("POWERTOOLS_SERVICE_NAME")
        for each in template.resources("AWS::Lambda::Function").values()
        if each.get("FunctionName", "").startswith("iep-")
    }
    assert {"iep"} == services


def test_alarms_and_budget_are_mailed(template: Any):
    """The address of config.py is told of alarms and of the money."""
    assert "it@example.org" == template.one("AWS::SNS::Subscription")["Endpoint"]
    budget = template.one("AWS::Budgets::Budget")
    assert {"Amount": 500, "Unit": "USD"} == budget["Budget"]["BudgetLimit"]


def test_templates_fit_into_stacks(template: Any):
    """CloudFormation takes 500 resources and 1 MB, and the stack's own do not grow by five with each edge."""
    assert len(template.document["Resources"]) < 200
    assert [5] == [len(each["Resources"]) for each in template.nested]
    assert all(path.stat().st_size < 500_000 for path in template.paths)


def test_a_thousand_edges_fit_into_sixteen_nested_stacks():
    """Names spread evenly, and an edge never moves to another stack when the list changes."""
    from infra.edges import edge_group

    groups = Counter(edge_group(f"edge-{number}") for number in range(1000))
    assert 16 == len(groups)
    assert 5 * max(groups.values()) < 500


def test_names_are_those_of_the_users_guide(template: Any):
    """Bucket, secret, cluster, group and installer are found under the names that earlier users know."""
    kinds = {name: each["Type"] for name, each in template.all_resources.items()}
    assert any(name.startswith("iepbucketsiepdicombucket") and kinds[name] == "AWS::S3::Bucket" for name in kinds)
    (secret,) = template.resources("AWS::SecretsManager::Secret")  # CloudFormation names it after its logical id
    assert secret.startswith("iepIEPAurora")
    assert "iep-iepauroradb" == template.one("AWS::RDS::DBCluster")["DBClusterIdentifier"]
    assert "iep" == template.one("AWS::RDS::DBCluster")["DatabaseName"]
    assert template.one("AWS::IoT::ThingGroup", ThingGroupName="iep-IEP-devices")
    assert template.one("AWS::IAM::Role", RoleName="iep-GGInstallerRole")
    assert template.one("AWS::IAM::Role", RoleName="iep-edge-1-GG-Role")


def test_failed_calls_raise_their_alarm_as_the_document_says(template: Any):
    """Three in a quarter of an hour, whenever they fall in it; of the migration the first."""
    for name in FUNCTIONS:
        alarm = template.one("AWS::CloudWatch::Alarm", AlarmName=f"iep-{name}-errors")
        expected = (900, 1, 0 if name == "migrate" else 2, "Sum")
        assert expected == (alarm["Period"], alarm["EvaluationPeriods"], alarm["Threshold"], alarm["Statistic"])
