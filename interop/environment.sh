#!/usr/bin/env bash
# Makes .envs/NAME, one peer in a virtual environment of its own, and prints that one's Python.
#
#     PYTHON=$(interop/environment.sh vllm) && $PYTHON interop/vllm_greedy.py ...
#
# vLLM, llm-compressor and AutoAWQ pin versions of the same libraries that cannot live together, nor
# with Salient's. So each has an environment, and Salient and its peers meet only on disk.
#
# torch comes first and alone: whatever build this machine's pip configuration offers for the pin is
# then kept by everything installed after it, instead of a package pulling the build that it likes.
#
# requirements/NAME.txt holds the pins; one with the line "# no torch" is made without torch. Where
# they exist, NAME.nodeps.txt names packages installed without what they ask for, and
# NAME.without.txt packages taken out again: picture and sound, which are built for one build of
# torch, stop at import beside another, and serve no text model.
#
# The stamp .ready is written last and says what was asked for, so a half-made or outdated one is
# made afresh and a complete one costs nothing. BASE_PYTHON chooses the interpreter (python3).
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
    echo "making $env (python $version)" >&2
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
