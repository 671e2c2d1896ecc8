#!/bin/sh
# Makes the Python environment that the tests need: what requirements.txt and, without
# dependencies, requirements-alone.txt beside this script name. Goes to $LOVAGE_TEST_VENV, by
# default target/test-venv at the root of the workspace. Installs Debian's redis-server and
# docker-registry where there are none, for which this has to be root. Does nothing when that is
# done already.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${LOVAGE_TEST_VENV:-$root/target/test-venv}
requirements=$here/requirements.txt
alone=$here/requirements-alone.txt
# The tests start them themselves, without what the packages set up as services.
install() {
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -qq -y --no-install-recommends "$1" >/dev/null 2>&1
}
for program in redis-server docker-registry; do
    if ! command -v "$program" >/dev/null; then
        if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
            echo "test environment: $program is missing: install it (Debian: apt-get install $program)," >&2
            echo "  or run this as root of a Debian" >&2
            exit 1
        fi
        # The lists of packages are fetched only where those that are there do not do.
        if ! install "$program" && ! { apt-get update -qq && install "$program"; }; then
            echo "test environment: apt-get cannot install $program; try it by hand and see why" >&2
            exit 1
        fi
        echo "test environment: $program installed"
    fi
done

# A copy of the requirements is put down when all of them are installed, and only then.
stamp=$venv/requirements.installed
# Celery's result backend is installed as it stands in the tree: only its metadata would be out of date.
client=$root/clients/python
# Versions of Celery whose clients read results, each in a folder of its own beside the one of requirements.txt.
others="5.3.6 5.4.0 5.5.3 5.6.3"
wanted() { cat "$requirements" "$alone" "$client/pyproject.toml"; echo "$client"; echo "$others"; }

if [ -x "$venv/bin/ministack" ] && wanted | cmp -s - "$stamp"; then
    echo "test environment: $venv (up to date)"
    exit 0
fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "test environment: need Python 3.10 or later; set PYTHON to one" >&2
    exit 1
fi
# Debian has the module venv without what it needs, in a package of its own.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "test environment: $python cannot make a venv: install python3-venv, or set PYTHON to another one" >&2
    exit 1
fi

rm -f "$stamp"
# One without pip is what was left when making it failed. Only what is a venv is cleared away.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    half=
    [ ! -f "$venv/pyvenv.cfg" ] || half=--clear
    "$python" -m venv ${half:+"$half"} "$venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$alone"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -e "$client"
for version in $others; do
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade \
        --target "$venv/celery-$version" "celery==$version"
done
wanted >"$stamp"
echo "test environment: $venv"
