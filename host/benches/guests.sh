#!/usr/bin/env bash
# Builds what the bench's section `guests` runs, by the commands of docs/languages.md: guests.sh LOVAGE DIRECTORY
# makes DIRECTORY/python.wasm and DIRECTORY/js-starlingmonkey.wasm where they are missing. Fetches from PyPI and npm.
set -euo pipefail

if [ $# != 2 ]; then
    echo "usage: guests.sh LOVAGE DIRECTORY" >&2
    exit 2
fi
docs=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../docs/languages.md")
lovage=$(realpath "$1")
mkdir -p "$2"
cd "$2"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! [ -f python.wasm ]; then
    (
        cd "$work"
        "$lovage" new python --lang python
        cd python
        python3 -m venv .venv
        .venv/bin/pip install --quiet 'componentize-py==0.25.*'
        "$lovage" build
    )
    mv "$work/python/python.wasm" .
fi
if ! [ -f js-starlingmonkey.wasm ]; then
    (
        cd "$work"
        "$lovage" new js --lang js
        cd js
        npm install --silent --save-dev @bytecodealliance/componentize-js@0.23 @bytecodealliance/preview2-shim esbuild
        # The only script there.
        sed -n '/^```js$/,/^```$/p' "$docs" | sed '/^```/d' >starling.mjs
        mkdir -p build
        node starling.mjs
    )
    mv "$work/js/build/starling.wasm" js-starlingmonkey.wasm
fi
