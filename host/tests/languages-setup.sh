#!/bin/sh
# Installs what the tests of languages need beyond Rust, Python and Node: clang, and C's library for
# WASI. The other tools are installed by what the tests run, the commands of docs/languages.md. Has to
# be root of a Debian where something is missing.
set -eu

packages="clang lld wasi-libc libclang-rt-dev-wasm32"
for tool in node npm python3; do
    if ! command -v $tool >/dev/null; then
        echo "languages: $tool is missing: install it (Debian: apt-get install nodejs npm python3-venv)" >&2
        exit 1
    fi
done
is_there() {
    command -v clang >/dev/null && command -v wasm-ld >/dev/null &&
        [ -f "$(clang --target=wasm32-wasi -print-file-name=crt1-reactor.o)" ] &&
        [ -f "$(clang --target=wasm32-wasi -print-libgcc-file-name)" ]
}
if is_there; then
    echo "languages: all there"
    exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "languages: clang for WASI is missing: install it (Debian: apt-get install $packages)," >&2
    echo "  or run this as root of a Debian" >&2
    exit 1
fi
install() {
    # shellcheck disable=SC2086 # one word each
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null 2>&1
}
# The lists of packages are fetched only where those that are there do not do.
if ! install && ! { apt-get update -qq && install; }; then
    echo "languages: apt-get cannot install $packages; try it by hand and see why" >&2
    exit 1
fi
is_there || { echo "languages: $packages are installed, and clang does not find what it needs" >&2; exit 1; }
echo "languages: $packages installed"
