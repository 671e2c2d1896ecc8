#!/usr/bin/env bash
# Builds every task and every hostile fixture, in release, into dist/ beside this file:
#
#   dist/NAME.wasm           the tasks that need no grant
#   dist/granted/NAME.wasm   those that do
#   dist/hostile/NAME.wasm   the fixtures of the host's tests
#
# A component that did not change keeps its file and its time, so that nothing downstream
# (a compile cache, a watcher, make) takes it for new. Arguments go to cargo.
set -euo pipefail

# From here, because cargo looks for .cargo/config.toml from the working directory upwards.
cd "$(dirname "${BASH_SOURCE[0]}")"

target=wasm32-wasip2
built=${LOVAGE_GUEST_TARGET_DIR:-target}
if ! [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
    rustup target add "$target"
fi

# RUSTFLAGS would replace the flags in .cargo/config.toml, and the small stack with them.
# Where panics come from is told by file, and those files are in cargo's home: without its path the
# same sources make the same component, with the same digest, on every machine.
remap="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
    cargo build --locked --release --workspace --target-dir "$built" --target "$target" \
    --config "target.$target.rustflags=['$remap']" "$@"

# collect SOURCES DIST: copies what the crates under SOURCES made to DIST, drops what is left of
# crates that are gone, and prints names and sizes.
collect() {
    local sources=$1 dist=$2 manifest name made file
    mkdir -p "$dist"
    for file in "$dist"/*.wasm; do
        name=$(basename "$file" .wasm)
        [ -d "$sources/$name" ] || rm -f "$file"
    done
    for manifest in "$sources"/*/Cargo.toml; do
        grep -q '"cdylib"' "$manifest" || continue # the SDK and its macros
        name=$(basename "$(dirname "$manifest")")
        made=$built/$target/release/${name//-/_}.wasm
        file=$dist/$name.wasm
        if ! cmp --silent "$made" "$file"; then
            # Renamed into place: who reads it meanwhile sees the old or the new, never a half.
            cp "$made" "$file.new"
            mv "$file.new" "$file"
        fi
        printf '%-32s %8d bytes\n' "$file" "$(wc -c <"$file")"
    done
}

collect rust dist
collect granted dist/granted
collect hostile dist/hostile
