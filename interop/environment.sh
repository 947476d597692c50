#!/usr/bin/env bash
# Create .envs/NAME, the virtual environment of one peer, and print its Python.
#
#     PYTHON=$(interop/environment.sh vllm) && $PYTHON interop/vllm_greedy.py ...
#
# vLLM, llm-compressor, AutoRound and AutoAWQ require incompatible versions of the same libraries. So each has
# its own environment, and Salient and its peers share only files.
#
# torch is installed first: later packages then use the build that this machine's pip configuration
# selects, instead of another one.
#
# requirements/NAME.txt has the versions; with the line "# no torch", torch is not installed. If they
# exist, NAME.nodeps.txt lists packages to install without dependencies, and NAME.without.txt
# packages to remove again: libraries for images and sound, which fail at import with another build
# of torch and are not needed for text.
#
# The stamp .ready is written last and contains the requirements: an incomplete or outdated
# environment is created again, a complete one is reused. BASE_PYTHON selects the interpreter.
set -euo pipefail

torch="torch==2.13.0"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"

names="$(cd "$here/requirements" && printf '%s\n' *.txt | sed -n 's/^\([^.]*\)\.txt$/\1/p')"

if [[ $# -ne 1 ]] || ! grep -qxF -- "$1" <<<"$names"; then
    echo "usage: interop/environment.sh NAME    with NAME one of:" $names >&2
    exit 2
fi

name="$1"
env="$root/.envs/$name"
python="$env/bin/python"
pins="$here/requirements/$name.txt"
bare="$here/requirements/$name.nodeps.txt"
unwanted="$here/requirements/$name.without.txt"
chosen="${BASE_PYTHON:-python3}"

first=("$torch")
! grep -qxF "# no torch" "$pins" || first=()

version="$("$chosen" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
wanted="$(
    echo "# python $version${first:+, $torch}"
    cat "$pins"
    [[ ! -f "$bare" ]] || { echo "# without their dependencies:"; cat "$bare"; }
    [[ ! -f "$unwanted" ]] || { echo "# taken out again:"; cat "$unwanted"; }
)"

if [[ ! -x "$python" || ! -f "$env/.ready" || "$(cat "$env/.ready")" != "$wanted" ]]; then
    echo "creating $env (python $version)" >&2
    mkdir -p "$root/.envs"
    echo '*' >"$root/.envs/.gitignore"
    rm -rf "$env"
    "$chosen" -m venv "$env"
    {
        pip=("$python" -m pip --quiet)
        [[ ${#first[@]} -eq 0 ]] || "${pip[@]}" install "${first[@]}"
        "${pip[@]}" install "${first[@]}" -r "$pins"
        [[ ! -f "$bare" ]] || "${pip[@]}" install --no-deps --no-build-isolation -r "$bare"
        [[ ! -f "$unwanted" ]] || "${pip[@]}" uninstall --yes -r "$unwanted"
    } >&2
    printf '%s\n' "$wanted" >"$env/.ready"
fi

echo "$python"
