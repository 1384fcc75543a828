"""What an EC2 edge does when it starts: take its spool, install the edge from the artifact, run it under systemd."""

from typing import Any, Final

from greengrass.component import to_toml
from infra.edgesettings import merged

__all__ = ["user_data_lines"]

# Where dicomflow-edge.service looks for them.
_PROGRAM: Final = "/opt/dicomflow"
_SETTINGS: Final = "/etc/dicomflow"
_WORK: Final = "/var/lib/dicomflow"
_SERVICE: Final = "dicomflow-edge"
_PYTHON: Final = "python3.13"
_METADATA: Final = "http://169.254.169.254/latest"


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
    fips: bool = False,
) -> list[str]:
    """Return the script's lines. It may run again: nothing is formatted that holds a file system."""
    of_the_stack = {
        "name": device,
        "dimse": {"port": port},
        "spool": {"dir": f"{_WORK}/spool"},
        "delivery": {"store_url": store_url, "kms_key_id": kms_key_id, "accelerate": accelerate},
    }
    return [
        "set -eux",
        f"export AWS_REGION={region} AWS_DEFAULT_REGION={region}",
        *(["export AWS_USE_FIPS_ENDPOINT=true"] if fips else []),
        *_take_spool(volume_id),
        *_install(artifact_url),
        f"echo AWS_REGION={region} >{_SETTINGS}/environment",
        *([f"echo AWS_USE_FIPS_ENDPOINT=true >>{_SETTINGS}/environment"] if fips else []),
        f"chmod 600 {_SETTINGS}/environment",
        f"cat >{_SETTINGS}/edge.toml <<'TOML'",
        *to_toml(merged(settings, of_the_stack)).splitlines(),
        "TOML",
        "systemctl daemon-reload",
        f"systemctl enable --now {_SERVICE}",
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
