#!/bin/sh
# Makes the Python environment that the tests need: what requirements.txt and, without
# dependencies, requirements-alone.txt beside this script name. Goes to $LOVAGE_TEST_VENV, by
# default target/test-venv at the root of the workspace. Does nothing when that is done already.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${LOVAGE_TEST_VENV:-$root/target/test-venv}
requirements=$here/requirements.txt
alone=$here/requirements-alone.txt
# A copy of the requirements is put down when all of them are installed, and only then.
stamp=$venv/requirements.installed

if [ -x "$venv/bin/ministack" ] && cat "$requirements" "$alone" | cmp -s - "$stamp"; then
    echo "test environment: $venv (up to date)"
    exit 0
fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "test environment: need Python 3.10 or later with its venv module; set PYTHON to one" >&2
    exit 1
fi

rm -f "$stamp"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$alone"
cat "$requirements" "$alone" >"$stamp"
echo "test environment: $venv"
