#!/usr/bin/env bash
# Makes the Python that runs tests/foreign/client.py: a virtual environment outside the clone, one for each content
# of requirements.txt, so that all clones share it. `--path` prints its interpreter and changes nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

requirements=tests/foreign/requirements.txt
base="${XDG_CACHE_HOME:-$HOME/.cache}/wharfinger"
venv="$base/python-$(sha256sum "$requirements" | cut -c1-16)"
# Written last: an installation that was broken off is begun again.
whole="$venv/whole"

if [ "${1:-}" = --path ]; then
    echo "$venv/bin/python"
    exit 0
fi
if [ -e "$whole" ] && "$venv/bin/python" -c 'import grpc' 2>/dev/null; then exit 0; fi

log=$(mktemp)
failed() {
    tail -n 20 "$log" >&2
    echo "error: $1; the log is $log" >&2
    exit 1
}

if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "error: python3-venv is missing, and installing needs root: run this as root, or install it" >&2; exit 1; }
    echo "installing python3-venv ..."
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv; } >"$log" 2>&1 ||
        failed "python3-venv could not be installed"
fi

mkdir -p "$base"
# Two clones at once make it once.
exec 9>"$base/python.lock"
flock 9
if [ -e "$whole" ] && "$venv/bin/python" -c 'import grpc' 2>/dev/null; then exit 0; fi
echo "installing the Python packages of $requirements ..."
rm -rf "$venv"
{ python3 -m venv "$venv" && "$venv/bin/python" -m pip install --disable-pip-version-check --no-input -r "$requirements"; } >"$log" 2>&1 ||
    failed "the packages of $requirements could not be installed"
touch "$whole"
rm -f "$log"
