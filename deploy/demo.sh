#!/usr/bin/env bash
# The main job in one go, on the embedded broker: a worker, a message, a result.
set -euo pipefail

lovage=$(realpath "$1")
tasks=$(realpath "$(dirname "$0")/../guest-tasks/dist")
folder=$(mktemp -d)
worker=
finish() {
    if [ -n "$worker" ]; then
        kill -TERM "$worker" 2>/dev/null || true
        wait "$worker" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

cat > lovage.toml <<TOML
[broker]
kind = "local"
path = "lovage.db"

[components]
paths = ["$tasks"]
TOML

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "A worker on the embedded broker (one SQLite file, no server):"
echo "  lovage worker"
"$lovage" worker &
worker=$!

say "A job for it; the task's code is process_data.wasm:"
echo "  lovage send process_data --data 21 --wait"
result=$("$lovage" send process_data --data 21 --wait)
say "The result:"
echo "$result"
[ "$result" = 42 ]
