"""The texts of `dicomflow edge-install` for sh: commands for a device; those for Windows are PowerShell's.

Each ends at the first command that fails, and run again it changes nothing that is as it should be.
"""

from typing import Final

__all__ = ["CERTIFICATE", "GREENGRASS", "NO_CERTIFICATE", "NUCLEUS_FILES", "SYSTEMD", "SYSTEMD_FILES", "UNINSTALL"]

# In a shell of their own: the first command that fails ends them, and not the terminal that they were pasted into.
GREENGRASS: Final = """\
# Run this file on the device that becomes the edge {thing}: sh {file}. Or paste it into a terminal there.
# {secrecy}
[ -z "${{BASH_VERSION:-}}" ] || set +o history
(
set -eu
umask 022
has_python() {{
    for python in python3.14 python3.13 python3.12 python3.11 python3; do
        ! "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 0
    done
    return 1
}}
has_all() {{
    for tool in java curl unzip; do command -v "$tool" >/dev/null || return 1; done
    has_python
}}
if has_all; then
    echo 'Java, curl, unzip and Python are here'
elif command -v apt-get >/dev/null; then
    sudo apt-get update
    sudo apt-get install -y default-jre-headless curl unzip python3 python3-venv
    has_python || sudo apt-get install -y python3.11 python3.11-venv
elif command -v dnf >/dev/null; then
    command -v java >/dev/null || sudo dnf install -y java-21-openjdk-headless ||
        sudo dnf install -y java-17-openjdk-headless || sudo dnf install -y java-17-amazon-corretto-headless
    command -v curl >/dev/null || sudo dnf install -y curl
    sudo dnf install -y unzip python3
    has_python || sudo dnf install -y python3.11
else
    echo 'neither apt-get nor dnf is here: install Java 11 or newer, curl, unzip and Python 3.11 with venv first' >&2
    exit 1
fi
if [ ! -f /greengrass/v2/config/effectiveConfig.yaml ]; then
{certificate}    folder=$(mktemp -d)
{proxy}    curl -fsSL https://d2s8p88vqu9w66.cloudfront.net/releases/greengrass-{nucleus}.zip -o "$folder/nucleus.zip"
    echo "{digest}  $folder/nucleus.zip" | sha256sum --check --quiet -
    unzip -q "$folder/nucleus.zip" -d "$folder/GreengrassInstaller"
    curl -fsSL https://www.amazontrust.com/repository/AmazonRootCA1.pem -o "$folder/root.pem"
    sudo install -m 644 "$folder/root.pem" /greengrass/v2/rootCA.pem
    cat >"$folder/nucleus.yaml" <<'NUCLEUS'
{nucleus_settings}
NUCLEUS
    sudo -E java -Droot=/greengrass/v2 -Dlog.store=FILE -jar "$folder/GreengrassInstaller/lib/Greengrass.jar" \\
        --init-config "$folder/nucleus.yaml" --component-default-user ggc_user:ggc_group --setup-system-service true
    sudo chmod a+rx /greengrass /greengrass/v2
    rm -rf "$folder"
else
    echo 'the nucleus is installed already, and stays as it is'
fi
sudo install -m 755 /dev/stdin /usr/local/bin/dicomflow <<'COMMAND'
#!/bin/sh
# dicomflow on this edge: as the user that Greengrass runs its components as.
exec sudo -u ggc_user /greengrass/v2/work/DIMSEtoS3/dicomflow "$@"
COMMAND
sudo systemctl enable --now greengrass
)
ended=$?
[ -z "${{BASH_VERSION:-}}" ] || set -o history
[ "$ended" = 0 ]
"""

UNINSTALL: Final = """\
# Run this file on the device that was the edge {thing}: sh {file}. What its spool holds stays.
(
set -eu
for service in greengrass dicomflow-edge; do
    ! systemctl cat "$service" >/dev/null 2>&1 || sudo systemctl disable --now "$service"
done
for spool in /greengrass/v2/work/DIMSEtoS3/spool /var/lib/dicomflow/spool; do
    ! sudo test -d "$spool" || echo "images that were not delivered may be in $spool: delete it when none is wanted"
done
sudo find /var/lib/dicomflow -maxdepth 1 -name 'device.*' -delete 2>/dev/null || true
sudo rm -rf /opt/dicomflow /etc/dicomflow /etc/systemd/system/dicomflow-edge.service /usr/local/bin/dicomflow
sudo find /greengrass/v2 -mindepth 1 -maxdepth 1 ! -name work -exec rm -rf {{}} + 2>/dev/null || true
sudo systemctl daemon-reload
)
"""

SYSTEMD: Final = """\
# Run this file on the machine that becomes the edge {thing}: sh {file}, with dicomflow-edge-linux-amd64.zip or -aarch64
# beside. `python -m infra.greengrass` makes the zip; the machine needs Python 3.11 or newer with venv, unzip, curl, and
# no internet. Run again it upgrades to the zip beside; settings changed on the machine, key and spool stay as they are.
# {secrecy}
[ -z "${{BASH_VERSION:-}}" ] || set +o history
(
set -eu
umask 022
id dicomflow >/dev/null 2>&1 || sudo useradd --system --user-group --home-dir /var/lib/dicomflow dicomflow
sudo install -d -m 750 -o dicomflow -g dicomflow /var/lib/dicomflow /var/lib/dicomflow/spool
sudo install -d -m 755 /etc/dicomflow /opt/dicomflow
sudo unzip -qo dicomflow-edge-linux-*.zip -d /opt/dicomflow
sudo chmod -R a+rX /opt/dicomflow
sudo -u dicomflow sh /opt/dicomflow/python.sh install /var/lib/dicomflow
{certificate}sudo install -m 644 /dev/stdin /etc/dicomflow/edge.toml.new <<'EDGE_TOML'
{settings}EDGE_TOML
if ! sudo test -f /etc/dicomflow/edge.toml ||
    sudo sha256sum --check --status /etc/dicomflow/edge.toml.sha256 2>/dev/null; then
    sudo mv /etc/dicomflow/edge.toml.new /etc/dicomflow/edge.toml
    sudo sha256sum /etc/dicomflow/edge.toml | sudo tee /etc/dicomflow/edge.toml.sha256 >/dev/null
elif sudo cmp -s /etc/dicomflow/edge.toml.new /etc/dicomflow/edge.toml; then
    sudo rm /etc/dicomflow/edge.toml.new
else
    echo 'edge.toml was changed on this machine and stays; what config.py says now is in /etc/dicomflow/edge.toml.new'
fi
if ! sudo test -f /etc/dicomflow/environment; then
    sudo install -m 600 /dev/null /etc/dicomflow/environment
    echo 'AWS_REGION={region}' | sudo tee /etc/dicomflow/environment >/dev/null
fi
sudo install -m 755 /dev/stdin /usr/local/bin/dicomflow <<'COMMAND'
#!/bin/sh
# dicomflow on this edge: as the user that its service runs as, with the service's variables.
exec sudo systemd-run --quiet --pipe --wait --collect --same-dir --uid=dicomflow --gid=dicomflow \\
    --property=EnvironmentFile=-/etc/dicomflow/environment /var/lib/dicomflow/dicomflow "$@"
COMMAND
sudo install -m 644 /opt/dicomflow/dicomflow-edge.service /etc/systemd/system/dicomflow-edge.service
sudo systemctl daemon-reload
sudo systemctl enable dicomflow-edge
sudo systemctl restart dicomflow-edge
curl -fsS --retry 20 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/readyz
)
ended=$?
[ -z "${{BASH_VERSION:-}}" ] || set -o history
[ "$ended" = 0 ]
"""

NO_CERTIFICATE: Final = """\
    echo '{thing} has its certificate on another device, or in a file written before; for another certificate:' >&2
    echo 'dicomflow edge-remove {name} --force, then dicomflow edge-install {name}' >&2
    exit 1
"""

# On standard input, so that no list of processes shows the key. The names are those that the nucleus's installer gives.
NUCLEUS_FILES: Final = """\
    sudo install -d -m 755 /greengrass /greengrass/v2
    sudo install -m 600 /dev/stdin /greengrass/v2/privKey.key <<'KEY'
{key}KEY
    sudo install -m 644 /dev/stdin /greengrass/v2/thingCert.crt <<'CERTIFICATE'
{pem}CERTIFICATE
"""

CERTIFICATE: Final = """\
if ! sudo test -f /var/lib/dicomflow/device.pem; then
{install}fi
"""

SYSTEMD_FILES: Final = """\
    sudo install -m 600 -o dicomflow -g dicomflow /dev/stdin /var/lib/dicomflow/device.key <<'KEY'
{key}KEY
    sudo install -m 600 -o dicomflow -g dicomflow /dev/stdin /var/lib/dicomflow/device.pem <<'CERTIFICATE'
{pem}CERTIFICATE
"""
