#!/usr/bin/env bash
# Builds the deployment package for AWS Lambda (provided.al2023), and says its size:
#
#   dist/lovage-lambda-x86_64.zip
#     bootstrap       the host without compiler, command line and embedded broker
#     tasks/          the tasks, compiled for any processor of that kind
#     lovage.toml     with CONFIG=FILE
#
# CONFIG=FILE     the configuration to put in; the function's environment can do without one. Code
#                 is compiled for its [sandbox], whatever this shell's environment says
# TASKS="A B"     the components; guest-tasks/dist/*.wasm as it comes, none with TASKS=none
# --for-tests     a quick build in place of a small one, to target/lambda-for-tests/; what tests use,
#                 with host/tests/package.toml as its configuration
#
# The package is for the architecture of the machine that builds it: lovage-lambda-arm64.zip on an
# arm64 machine. No crossing over: it would take a cross toolchain with AWS-LC for the host.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

# Debug builds of this very crate are quick, and the tests have built most of the rest already.
profile=lambda
out=dist
level=9
extra=()
for argument in "$@"; do
    case $argument in
        --for-tests)
            profile=dev
            out=${CARGO_TARGET_DIR:-target}/lambda-for-tests
            level=1
            # For what only a hostile guest shows.
            extra=(guest-tasks/dist/hostile/spin.wasm)
            CONFIG=${CONFIG:-host/tests/package.toml}
            ;;
        *) fail "unknown argument $argument; there is --for-tests" ;;
    esac
done
profile=${LOVAGE_LAMBDA_PROFILE:-$profile}

case $(uname -sm) in
    "Linux x86_64") architecture=x86_64 ;;
    "Linux aarch64") architecture=arm64 ;; # as Lambda calls it
    *) fail "builds on Linux x86_64 and arm64 only, and this is $(uname -sm)" ;;
esac
package=$out/lovage-lambda-$architecture.zip
if [ "${TASKS:-}" = none ]; then
    tasks=()
elif [ -n "${TASKS:-}" ]; then
    read -ra tasks <<<"$TASKS"
else
    tasks=(guest-tasks/dist/*.wasm)
fi
tasks+=("${extra[@]}")
for task in "${tasks[@]}"; do
    [ -f "$task" ] || fail "$task is missing; run \`make guests\` first, or name components in TASKS"
done
[ -z "${CONFIG:-}" ] || [ -f "$CONFIG" ] || fail "CONFIG names $CONFIG, which is no file"

staging=$out/lambda
rm -rf "$staging"
mkdir -p "$staging/tasks"

target=${CARGO_TARGET_DIR:-target}
directory=$profile
[ "$profile" = dev ] && directory=debug

# The command with the configuration that goes into the package and with nothing else: code that
# was compiled for other settings is refused there.
configuration=/dev/null
lovage=(env -u LOVAGE_CONFIG -u LOVAGE_LOG)
while read -r name; do
    lovage+=(-u "$name")
done < <(compgen -e LOVAGE__)
lovage+=("$target/debug/lovage")
if [ -n "${CONFIG:-}" ]; then
    # First of all, since the rest takes minutes.
    cargo build --locked --package lovage --bin lovage
    "${lovage[@]}" --config "$CONFIG" config check >/dev/null || fail "CONFIG is not right"
    configuration=$staging/lovage.toml
    cp "$CONFIG" "$configuration"
fi

# Two builds of one program. The second leaves the usual one where everybody looks for it.
cargo build --locked --package lovage --bin lovage --no-default-features --profile "$profile"
# Where a debugger would look for symbols, no debugger gets.
strip -o "$staging/bootstrap" "$target/$directory/lovage"
cargo build --locked --package lovage --bin lovage

# The runtime's glibc is older than that of many systems that build it.
newest=$(readelf --wide --dyn-syms "$staging/bootstrap" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1)
if [ "$(printf '%s\n' GLIBC_2.34 "$newest" | sort -V | tail -1)" != GLIBC_2.34 ]; then
    fail "the program needs $newest, and provided.al2023 has glibc 2.34; build it where glibc is" \
        "no newer than that, Amazon Linux 2023 say. Symbols:" \
        "$(readelf --wide --dyn-syms "$staging/bootstrap" | grep -o "[^ ]*@$newest" | sort -u | paste -sd' ')"
fi

# A named target is its baseline: what this machine's processor has beyond it is not used.
if [ ${#tasks[@]} -gt 0 ]; then
    "${lovage[@]}" --config "$configuration" --log error --json compile \
        --target "$(uname -m)-unknown-linux-gnu" --out "$staging/tasks" "${tasks[@]}" >/dev/null
else
    rmdir "$staging/tasks"
fi

python3 - "$staging" "$package" "$level" "$newest" <<'PYTHON'
"""Packs a directory so that the same files make the same package, byte for byte."""
import os
import pathlib
import sys
import zipfile

source, package, level, glibc = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
files = sorted(path for path in source.rglob("*") if path.is_file())
sizes = {}
with zipfile.ZipFile(package + ".new", "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
    for path in files:
        name = path.relative_to(source).as_posix()
        entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        entry.create_system = 3  # Unix: the modes below count
        entry.external_attr = (0o100755 if name == "bootstrap" else 0o100644) << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, path.read_bytes(), compresslevel=level)
        sizes[name] = (path.stat().st_size, archive.getinfo(name).compress_size)
os.replace(package + ".new", package)

mb = lambda count: f"{count / 1e6:8.2f} MB"
print(f"{package}: {os.path.getsize(package) / 1e6:.2f} MB; needs {glibc.replace('_', ' ').lower()} at most")
print(f"  {'unpacked':>11}  {'packed':>11}")
for name, (unpacked, packed) in sizes.items():
    print(f"  {mb(unpacked)}  {mb(packed)}  {name}")
print(f"  {mb(sum(unpacked for unpacked, _ in sizes.values()))}               in all (Lambda takes 250 MB, layers included)")
PYTHON
