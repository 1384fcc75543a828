"""The catalog: Aurora PostgreSQL Serverless v2 that may pause, and the migration of its schema with every deploy."""

from pathlib import Path
from typing import Final

from aws_cdk import Arn, ArnComponents, ArnFormat, CustomResource, Duration, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import custom_resources as cr
from constructs import Construct

from infra.functions import PipelineFunction, log_retention
from infra.network import Network
from infra.settings import DeploymentSettings

__all__ = ["ADMIN", "USER", "Catalog"]

ADMIN: Final = "dicomflow_admin"
"""Owns the schema; its password is in Secrets Manager, for the migration and for the Query Editor."""
USER: Final = "dicomflow"
"""Reads and writes rows, and proves itself by IAM; the functions' user."""

_PORT: Final = 5432
_BACKUP_DAYS: Final = 35
_CERTIFICATES: Final = Path(__file__).resolve().parent / "certificates"
_PARAMETERS: Final = {
    "rds.force_ssl": "1",
    # A frozen function keeps its connection, and a connection keeps the engine from pausing. Milliseconds.
    "idle_session_timeout": "60000",
    "idle_in_transaction_session_timeout": "60000",
    # No patient data in the log: neither statements nor the values that an error would quote.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_statement": "none",
    "log_connections": "1",
    "log_disconnections": "1",
}


class Catalog(Construct):
    """The cluster and its schema; `environment` and `layer` are what a function needs to reach it."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: DeploymentSettings,
        network: Network,
        key: kms.IKey,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings = settings
        self._network = network
        self._key = key
        group = network.group(self, "Group", settings.network.database_group, "The catalog", calls_out=False)
        group.add_ingress_rule(network.function_group, ec2.Port.tcp(_PORT), "From functions")
        self.cluster = self._make_cluster(group)
        self.layer = lambda_.LayerVersion(
            self,
            "Certificates",
            code=lambda_.Code.from_asset(str(_CERTIFICATES)),
            description="Amazon's authorities for databases",
            removal_policy=RemovalPolicy.DESTROY,
        )
        self.environment = {
            "DICOMFLOW_DATABASE_URL": self._url(USER),
            "DICOMFLOW_DATABASE_IAM": "true",
            "PGSSLROOTCERT": "/opt/rds.pem",
        }
        self.migration = self._migrate()

    @property
    def secret_arn(self) -> str:
        """The administrator's secret."""
        assert self.cluster.secret is not None  # generated with the cluster
        return self.cluster.secret.secret_arn

    def grant_use(self, function: PipelineFunction) -> None:
        """Let a function connect as the catalog's user, once the schema is migrated."""
        user = Arn.format(
            ArnComponents(
                service="rds-db",
                resource="dbuser",
                resource_name=f"{self.cluster.cluster_resource_identifier}/{USER}",
                arn_format=ArnFormat.COLON_RESOURCE_NAME,
            ),
            Stack.of(self),
        )
        function.grant("Catalog", ["rds-db:connect"], [user])
        function.node.add_dependency(self.migration)

    def _url(self, user: str) -> str:
        return f"postgresql://{user}@{self.cluster.cluster_endpoint.hostname}:{_PORT}/{self._settings.database.db_name}"

    def _make_cluster(self, group: ec2.ISecurityGroup) -> rds.DatabaseCluster:
        config = self._settings.database
        identifier = f"{self._settings.name.lower()}-iepauroradb"
        engine = rds.DatabaseClusterEngine.aurora_postgres(version=rds.AuroraPostgresEngineVersion.VER_17_7)
        log = logs.LogGroup(
            self,
            "Log",
            log_group_name=f"/aws/rds/cluster/{identifier}/postgresql",
            retention=log_retention(self._settings),
            encryption_key=self._key,
            removal_policy=RemovalPolicy.DESTROY,
        )
        may_pause = config.db_engine_pause > 0
        cluster = rds.DatabaseCluster(
            self,
            "iepauroradb",
            cluster_identifier=identifier,
            engine=engine,
            writer=rds.ClusterInstance.serverless_v2(
                "Writer", ca_certificate=rds.CaCertificate.RDS_CA_RSA2048_G1, auto_minor_version_upgrade=True
            ),
            serverless_v2_min_capacity=0 if may_pause else config.min_acu_capacity,
            serverless_v2_max_capacity=config.max_acu_capacity,
            serverless_v2_auto_pause_duration=Duration.minutes(config.db_engine_pause) if may_pause else None,
            default_database_name=config.db_name,
            credentials=rds.Credentials.from_generated_secret(ADMIN, encryption_key=self._key),
            parameter_group=rds.ParameterGroup(
                self, "Parameters", engine=engine, description="dicomflow's catalog", parameters=_PARAMETERS
            ),
            port=_PORT,
            vpc=self._network.vpc,
            vpc_subnets=self._network.database,
            security_groups=[group],
            storage_encryption_key=self._key,
            iam_authentication=True,
            enable_data_api=True,
            cloudwatch_logs_exports=["postgresql"],
            backup=rds.BackupProps(retention=Duration.days(_BACKUP_DAYS)),
            copy_tags_to_snapshot=True,
            deletion_protection=config.deletion_protection,
            removal_policy=RemovalPolicy.SNAPSHOT,
        )
        cluster.node.add_dependency(log)
        return cluster

    def _migrate(self) -> CustomResource:
        """Bring the schema to the deployed program's revision, before any function of it runs; never drop a row."""
        secrets = self.secrets_function = self._secrets()
        function = PipelineFunction(
            self,
            "migrate",
            settings=self._settings,
            key=self._key,
            network=self._network,
            environment={
                "DICOMFLOW_MIGRATION__RELAY": secrets.function.function_name,
                "DICOMFLOW_MIGRATION__DATABASE_URL": self._url(ADMIN),
                "DICOMFLOW_MIGRATION__SECRET_ARN": self.secret_arn,
                "DICOMFLOW_MIGRATION__USER": USER,
                "PGSSLROOTCERT": "/opt/rds.pem",
            },
            timeout=Duration.minutes(15),
            memory_mib=512,
            layers=[self.layer],
        )
        function.grant("Secret", ["lambda:InvokeFunction"], [secrets.function.function_arn])
        self.migrate_function = function
        provider = cr.Provider(self, "Provider", on_event_handler=function.function)
        migration = CustomResource(
            self,
            "Schema",
            service_token=provider.service_token,
            resource_type="Custom::CatalogSchema",
            properties={"Program": function.version},
        )
        # The secret is asked for through the gateway or the endpoint, which must be there by then.
        migration.node.add_dependency(self.cluster, function, self._network)
        return migration

    def _secrets(self) -> PipelineFunction:
        """Make what reads the owner's secret for the migration, from outside the VPC, and can do nothing else."""
        function = PipelineFunction(
            self,
            "secrets",
            program="relay",
            settings=self._settings,
            key=self._key,
            environment={},
            timeout=Duration.seconds(60),
            memory_mib=256,
        )
        function.grant("Secret", ["secretsmanager:GetSecretValue"], [self.secret_arn])
        function.grant(
            "SecretKey",
            ["kms:Decrypt"],
            [self._key.key_arn],
            StringEquals={"kms:ViaService": f"secretsmanager.{Stack.of(self).region}.amazonaws.com"},
        )
        return function
