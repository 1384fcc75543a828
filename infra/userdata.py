"""What an EC2 edge does when it starts: take its spool, install the edge from the artifact, run it under systemd."""

import json
from dataclasses import dataclass
from typing import Any, Final

from dicomflow.cli.toml import merged
from greengrass.component import to_toml
from infra.devices import DeviceConfig

__all__ = ["Surroundings", "log_group_of", "user_data_lines"]

# Where dicomflow-edge.service looks for them.
_PROGRAM: Final = "/opt/dicomflow"
_SETTINGS: Final = "/etc/dicomflow"
_WORK: Final = "/var/lib/dicomflow"
_SERVICE: Final = "dicomflow-edge"
_PYTHON: Final = "python3.13"
_METADATA_HOST: Final = "169.254.169.254"
_METADATA: Final = f"http://{_METADATA_HOST}/latest"
_LOG: Final = "/var/log/dicomflow-edge.log"
_AGENT: Final = "/opt/aws/amazon-cloudwatch-agent"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around an instance beside the edge: proxy, FIPS endpoints, whether its log goes to CloudWatch."""

    devices: DeviceConfig
    is_fips: bool = False

    def variables(self, region: str) -> dict[str, str]:
        """Return the environment that programs need to reach AWS, the edge as well as the script's own."""
        told = {"AWS_REGION": region}
        if self.is_fips:
            told["AWS_USE_FIPS_ENDPOINT"] = "true"
        if self.devices.proxy_url:
            excludes = filter(None, ("localhost", "127.0.0.1", _METADATA_HOST, self.devices.proxy_excludes))
            told |= {"HTTPS_PROXY": self.devices.proxy_url, "NO_PROXY": ",".join(excludes)}
        return told


def log_group_of(device: str) -> str:
    """Return the name of the group that an instance's log goes to."""
    return f"/dicomflow/{device}"


def user_data_lines(
    *,
    device: str,
    region: str,
    volume_id: str,
    artifact_url: str,
    store_url: str,
    kms_key_id: str,
    accelerate: bool,
    port: int,
    settings: dict[str, Any],
    surroundings: Surroundings,
) -> list[str]:
    """Return the script's lines. It may run again: nothing is formatted that holds a file system."""
    of_the_stack = {
        "name": device,
        "dimse": {"port": port},
        "spool": {"dir": f"{_WORK}/spool"},
        "delivery": {"store_url": store_url, "kms_key_id": kms_key_id, "accelerate": accelerate},
    }
    variables = surroundings.variables(region)
    has_log = surroundings.devices.logs_to_cloudwatch
    return [
        "set -eux",
        *(f"export {name}='{value}'" for name, value in variables.items()),
        "export AWS_DEFAULT_REGION=$AWS_REGION",
        *_take_spool(volume_id),
        *_install(artifact_url),
        *(_write_log() if has_log else []),
        f"cat >{_SETTINGS}/environment <<'ENVIRONMENT'",
        *(f"{name}={value}" for name, value in variables.items()),
        "ENVIRONMENT",
        f"chmod 600 {_SETTINGS}/environment",
        f"cat >{_SETTINGS}/edge.toml <<'TOML'",
        *to_toml(merged(settings, of_the_stack)).splitlines(),
        "TOML",
        "systemctl daemon-reload",
        f"systemctl enable --now {_SERVICE}",
        *(_send_log(device, region, surroundings) if has_log else []),
    ]


def _take_spool(volume_id: str) -> list[str]:
    """Attach and mount the edge's volume, whichever instance had it before."""
    return [
        f"token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' {_METADATA}/api/token)",
        f'instance=$(curl -sf -H "X-aws-ec2-metadata-token: $token" {_METADATA}/meta-data/instance-id)',
        "# The volume may still be leaving the instance that was here before.",
        f"until aws ec2 attach-volume --volume-id {volume_id} --instance-id $instance --device /dev/sdf",
        "do sleep 10; done",
        f"disk=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_$(echo {volume_id} | tr -d -)",
        "until [ -e $disk ]; do sleep 1; done",
        "blkid $disk || mkfs.xfs $disk",
        f"mkdir -p {_WORK}",
        f'grep -q " {_WORK} " /etc/fstab || echo "$disk {_WORK} xfs defaults,nofail,noatime 0 2" >>/etc/fstab',
        f"mountpoint -q {_WORK} || mount {_WORK}",
        f"xfs_growfs -d {_WORK}",
    ]


def _install(artifact_url: str) -> list[str]:
    """Install the edge's program from its artifact, as the user that runs it."""
    return [
        f"dnf install -y {_PYTHON} {_PYTHON}-pip unzip",
        f"id dicomflow || useradd --system --home-dir {_WORK} --no-create-home --shell /sbin/nologin dicomflow",
        f"mkdir -p {_PROGRAM} {_SETTINGS} /etc/systemd/system/{_SERVICE}.service.d",
        f"aws s3 cp {artifact_url} /tmp/artifact.zip",
        f"unzip -qo /tmp/artifact.zip -d {_PROGRAM}",
        "# The user may have had another number on the instance before.",
        f"chown -R dicomflow: {_WORK}",
        f"runuser -u dicomflow -- sh {_PROGRAM}/python.sh install {_WORK}",
        f"cp {_PROGRAM}/{_SERVICE}.service /etc/systemd/system/",
        "# Without its volume the edge must not receive: it would spool to the instance's own disk.",
        f"printf '[Unit]\\nRequiresMountsFor={_WORK}\\n' >/etc/systemd/system/{_SERVICE}.service.d/spool.conf",
    ]


def _write_log() -> list[str]:
    """Write the edge's log to a file, which the agent reads as it reads no journal, and keep the file small."""
    return [
        f"cat >/etc/systemd/system/{_SERVICE}.service.d/log.conf <<'UNIT'",
        "[Service]",
        f"StandardOutput=append:{_LOG}",
        f"StandardError=append:{_LOG}",
        "UNIT",
        f"cat >/etc/logrotate.d/{_SERVICE} <<'LOGROTATE'",
        f"{_LOG} {{",
        "size 50M",
        "rotate 2",
        "missingok",
        "# cut where it lies: the edge holds it open",
        "copytruncate",
        "}",
        "LOGROTATE",
    ]


def _send_log(device: str, region: str, surroundings: Surroundings) -> list[str]:
    """Start the CloudWatch agent; last, since an edge without it receives all the same."""
    file = {"file_path": _LOG, "log_group_name": log_group_of(device), "log_stream_name": "{instance_id}"}
    told: dict[str, Any] = {"logs": {"logs_collected": {"files": {"collect_list": [file]}}}}
    if surroundings.is_fips:
        told["logs"]["endpoint_override"] = f"logs-fips.{region}.amazonaws.com"
    proxy = surroundings.devices.proxy_url
    common = []
    if proxy:
        common = [
            f"cat >>{_AGENT}/etc/common-config.toml <<'TOML'",
            "[proxy]",
            f'https_proxy = "{proxy}"',
            f'no_proxy = "{surroundings.variables(region)["NO_PROXY"]}"',
            "TOML",
        ]
    return [
        "dnf install -y amazon-cloudwatch-agent",
        *common,
        f"cat >{_AGENT}/etc/dicomflow.json <<'JSON'",
        json.dumps(told),
        "JSON",
        f"{_AGENT}/bin/amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c file:{_AGENT}/etc/dicomflow.json",
    ]
