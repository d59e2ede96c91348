#!/usr/bin/env bash
# Print the path of an interpreter of one version: tests/find_python.sh 3.13
set -euo pipefail

version=$1

# One that is listed need not start (pyenv's shims do not).
for found in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
    if [ "$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$version" ]; then
        command -v "$found"
        exit
    fi
done
command -v uv >/dev/null || exit 1
uv python find "$version" 2>/dev/null && exit
uv python install --quiet "$version" 2>/dev/null && uv python find "$version" 2>/dev/null
