"""What an EC2 edge does when it starts: take its spool, install the edge from the artifact, run it under systemd."""

from typing import Final

__all__ = ["user_data_lines"]

_ARTIFACT: Final = "/opt/dicomflow/artifact"
_CONFIG: Final = "/etc/dicomflow/edge.toml"
_SPOOL: Final = "/var/lib/dicomflow"
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
) -> list[str]:
    """Return the script's lines. It may run again: nothing is formatted that holds a file system."""
    return [
        "set -eux",
        f"export AWS_REGION={region} AWS_DEFAULT_REGION={region}",
        f"token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' {_METADATA}/api/token)",
        f'instance=$(curl -sf -H "X-aws-ec2-metadata-token: $token" {_METADATA}/meta-data/instance-id)',
        "# The volume may still be leaving the instance that was here before.",
        f"until aws ec2 attach-volume --volume-id {volume_id} --instance-id $instance --device /dev/sdf",
        "do sleep 10; done",
        f"disk=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_$(echo {volume_id} | tr -d -)",
        "until [ -e $disk ]; do sleep 1; done",
        "blkid $disk || mkfs.xfs $disk",
        f"mkdir -p {_SPOOL}",
        f'grep -q " {_SPOOL} " /etc/fstab || echo "$disk {_SPOOL} xfs defaults,nofail,noatime 0 2" >>/etc/fstab',
        f"mountpoint -q {_SPOOL} || mount {_SPOOL}",
        "xfs_growfs -d " + _SPOOL,
        f"dnf install -y {_PYTHON} unzip",
        f"mkdir -p {_ARTIFACT} $(dirname {_CONFIG})",
        f"aws s3 cp {artifact_url} /tmp/artifact.zip",
        f"unzip -qo /tmp/artifact.zip -d {_ARTIFACT}",
        f"cat >{_CONFIG} <<'TOML'",
        f'name = "{device}"',
        "[dimse]",
        f"port = {port}",
        "[spool]",
        f'dir = "{_SPOOL}/spool"',
        "[delivery]",
        f'store_url = "{store_url}"',
        f'kms_key_id = "{kms_key_id}"',
        f"accelerate = {'true' if accelerate else 'false'}",
        "TOML",
        f"sh {_ARTIFACT}/install-systemd.sh --config {_CONFIG} --python {_PYTHON}",
    ]
