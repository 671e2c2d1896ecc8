#!/bin/sh
# Checks and tests the package with each version of Celery that it is for, against a local AWS. Makes the virtual
# environments that it needs in $LOVAGE_PYTHON_CACHE, by default target/clients-python at the root of the workspace;
# does not make them again while what they are made of stays the same.
# Arguments go to pytest: ./test.sh -k threads
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${LOVAGE_PYTHON_CACHE:-$here/../../target/clients-python}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
versions="5.6.3 5.7.0"
tools="pytest==9.2.0 gevent==26.9.0 mypy==2.4.1 ruff==0.17.6 hatchling==1.33.0"

python=${PYTHON:-}
if [ -z "$python" ]; then
    for python in python3.11 python3; do
        ! command -v "$python" >/dev/null || break
    done
fi
if ! "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "clients/python: need Python 3.10 or later with venv (3.11 is what it is tested with); set PYTHON to one" >&2
    exit 1
fi

# make NAME PACKAGE…: an environment with these packages, and a note of which they are when all are there.
make() {
    name=$1
    shift
    stamp=$cache/$name/installed
    wanted="$("$python" -V) $*"
    if [ -x "$cache/$name/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    "$python" -m venv --clear "$cache/$name"
    "$cache/$name/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "$wanted" >"$stamp"
    echo "clients/python: environment $cache/$name"
}

if [ -n "${LOVAGE_TEST_VENV:-}" ] && [ -x "$LOVAGE_TEST_VENV/bin/ministack" ]; then
    LOVAGE_MINISTACK=$LOVAGE_TEST_VENV/bin/ministack
elif [ -x "$here/../../target/test-venv/bin/ministack" ]; then
    LOVAGE_MINISTACK=$here/../../target/test-venv/bin/ministack
else
    # shellcheck disable=SC2046
    make ministack $(grep '^ministack==' "$here/../../host/tests/requirements.txt")
    LOVAGE_MINISTACK=$cache/ministack/bin/ministack
fi
export LOVAGE_MINISTACK

for version in $versions; do
    # shellcheck disable=SC2086
    make "celery-$version" "celery[sqs]==$version" $tools
    # The package itself, as it is now, with its entry point: a wheel, as users have it.
    "$cache/celery-$version/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --no-build-isolation --force-reinstall "$here"
done

cd "$here"
last=$cache/celery-${versions##* }/bin
"$last/ruff" format --check --cache-dir "$cache/ruff" .
"$last/ruff" check --cache-dir "$cache/ruff" .
"$last/python" -m mypy --cache-dir "$cache/mypy"

# Tests mostly wait, so both versions run at once.
started=
for version in $versions; do
    "$cache/celery-$version/bin/python" -m pytest -p no:cacheprovider "$@" >"$cache/celery-$version.log" 2>&1 &
    started="$started $version:$!"
done
failed=0
for one in $started; do
    wait "${one#*:}" || failed=1
    echo "clients/python: Celery ${one%:*}"
    cat "$cache/celery-${one%:*}.log"
done
exit $failed
