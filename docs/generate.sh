#!/usr/bin/env bash
# Writes the files of docs/ that scripts generate; with --check it only says whether they are current.
#
#     docs/generate.sh [--check]
#
# From the environment: PYTHON (python), an interpreter that can import emkd_jax.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD
status=0

generate() {  # generate SCRIPT FILE
    if [ "${check:-}" ]; then
        "${PYTHON:-python}" "$1" | cmp --quiet - "$2" || {
            echo "$2 is out of date; run docs/generate.sh."
            status=1
        }
    else
        "${PYTHON:-python}" "$1" > "$2"
    fi
}

[ "${1:-}" = --check ] && check=1
generate docs/architecture.py docs/assets/architecture.svg
generate docs/configuration.py docs/configuration.md
exit $status
