"""What a deployment is: the values that `python -m infra.app` and `cdk deploy` read.

Keeping them as they are works. docs/deploy.md goes through the deployment; a wrong value is named before anything is
deployed.
"""

CDK_APP_NAME = "iep"
"""Name of the CloudFormation stack, and the first part of the names of its devices, roles and object keys."""

VPC_CIDR = "10.10.0.0/22"
"""Addresses of the VPC that is made: /16 to /24."""

RESOURCE_TAGS = {
    "tag_list": {
        "purpose": "dicom-ingestion",
    }
}
"""Tags of everything the stack makes but the data store: up to 45 in `tag_list`."""

EDGE_CONFIG = [
    {"Name": "edge-1", "device_type": "LOCAL"},
]
"""The edges.

`Name` is unique, and more than one may stand here. `device_type` LOCAL is a device of yours, which
`dicomflow edge-install NAME` installs; EC2 is an instance that the stack starts in its VPC. An EC2 edge may have
`instance_type` (a Graviton type, t4g.medium), `spool_gib` (100), the size of its spool, and `networks` (the VPC's own),
a list of the networks that may send to it.

Any edge may have `settings`, the tables of its edge.toml, which docs/operations.md lists:
{"Name": "ct", "device_type": "LOCAL", "settings": {"dimse": {"calling_ae_titles": ["CT1"]}}}.
"""

AHLI_CONFIG = {
    "ahli_enabled": True,
    "ahli_endpoint": "",
    "ahli_concurrent_imports": 20,
    "datastore_id": "",
}
"""AWS HealthImaging.

`ahli_enabled` False receives and indexes only. `ahli_endpoint` stays empty: it is for another address than the
service's own. `ahli_concurrent_imports` is the account's quota of concurrent import jobs: 100 a data store by default,
20 in ap-southeast-2. `datastore_id` takes a data store that is there in the place of one that the stack makes.
"""

DB_CONFIG = {
    "db_name": "iep",
    "db_engine_pause": 20,
    "min_acu_capacity": "ACU_8",
    "max_acu_capacity": "ACU_64",
    "deletion_protection": True,
}
"""The catalog, Aurora PostgreSQL Serverless v2.

`db_engine_pause` is after how many idle minutes it pauses, 5 to 1440; a paused engine costs its storage only, and an
engine that may pause starts from 0 ACU. 0 keeps it awake, with `min_acu_capacity` at least: 8 ACU are 700 USD a
month. An ACU is about 2 GiB of
memory. `deletion_protection` must be False before the stack can be destroyed; a last snapshot is taken then.
"""

STORAGE_CONFIG = {
    "transfer_acceleration": False,
    "kms_key_arn": "",
    "retention_days": 0,
    "archive_after_days": 30,
}
"""The bucket that edges deliver to.

`transfer_acceleration` lets edges far from the region upload through the nearest edge location, for a charge.
`kms_key_arn` is a key of yours for bucket, catalog, logs and data store; empty makes one. `retention_days` deletes
received objects so many days after their import; what was not imported stays, and 0 keeps all. `archive_after_days`
moves received objects of 256 KB and more to S3 Glacier Instant Retrieval, which is read as before and costs a sixth;
0 moves none, and none is moved where `retention_days` is less than 90 days more.
"""

NETWORK_CONFIG = {
    "private_endpoints": False,
    "zones": [],
    "vpc_id": "",
    "function_subnets": {},
    "database_subnets": {},
    "function_group": "",
    "database_group": "",
    "edge_group": "",
}
"""The network. docs/network.md goes through it; all but `private_endpoints` is chosen before the first deployment.

`private_endpoints` True reaches AWS's services by an interface endpoint, and nothing in the VPC the internet. `zones`
names the two zones of the VPC that is made, such as ["us-east-1a", "us-east-1b"]; empty takes the first two.
`vpc_id` takes a VPC that is there, with VPC_CIDR as its addresses, and makes nothing of the network: functions and
edges go to `function_subnets`, the catalog to `database_subnets`, both as {"us-east-1a": "subnet-…"}.
`function_group`, `database_group` and `edge_group` are security groups that are there; empty makes them.
"""

ACCOUNT_CONFIG = {
    "permissions_boundary": "",
    "bootstrap_qualifier": "",
    "fips_endpoints": False,
}
"""What the account demands.

`permissions_boundary` is the name or the ARN of the managed policy that every role gets which the stack makes.
`bootstrap_qualifier` tells our bootstrap of the CDK from others in the account. `fips_endpoints` True calls AWS by its
FIPS endpoints alone, where the region has them: us-east-1 and us-west-2 with imports on.
"""

DEVICE_CONFIG = {
    "proxy_url": "",
    "proxy_excludes": "",
    "only_port_443": False,
    "logs_to_cloudwatch": False,
    "nucleus_version": "",
    "log_manager_version": "",
}
"""What the devices of all edges have in common; docs/network.md and docs/operations.md go through it.

`proxy_url`, such as "http://proxy.example.org:3128", is the proxy of the Greengrass nucleus, of the edges that it runs
and of EC2 edges, but for the hosts in `proxy_excludes`. `only_port_443` keeps the nucleus to that port.
`logs_to_cloudwatch` True sends the edges' logs to CloudWatch, for a charge. `nucleus_version` and
`log_manager_version` are those that a deployment brings where one of these parameters or FIPS endpoints need them;
empty is what `dicomflow edge-install` installs, and the log manager that fits it.
"""

MONITORING_CONFIG = {
    "email": "",
    "monthly_budget_usd": 0,
    "log_days": 365,
}
"""Alarms go to `email`, if there is one; `monthly_budget_usd` above 0 mails when 80 % of it is spent.

`log_days` is how long logs are kept: one of CloudWatch's steps, such as 30, 90, 365 or 2192.
"""

SITE_ISSUERS: dict[str, str] = {}
"""Issuers of Patient IDs that name none, by edge, or by edge and calling AE title: {"edge-1/CT1": "HOSPITAL"}.

An edge that is taken out of EDGE_CONFIG stays here, and below: what it delivered may be read again.
"""

SITE_CHARACTER_SETS: dict[str, str] = {}
"""What devices mean that declare no Specific Character Set, by the same names: {"edge-1/OLD_CT": "ISO_IR 100"}."""
