#!/bin/sh
# Run component.py on the newest Python of this device that the artifact has wheels for; EDGE_PYTHON names another.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
for python in ${EDGE_PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3; do
    if command -v "$python" >/dev/null 2>&1 && "$python" "$here/component.py" check 2>/dev/null; then
        exec "$python" -u "$here/component.py" "$@"
    fi
done
echo 'dicomflow edge: no Python that can run it; what is missing of those there are:' >&2
for python in ${EDGE_PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3; do
    if command -v "$python" >/dev/null 2>&1; then "$python" "$here/component.py" check || true; fi
done
exit 1
