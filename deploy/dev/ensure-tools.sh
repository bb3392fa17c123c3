#!/usr/bin/env bash
# Installs what building and testing need beside Rust, where it is missing: a C compiler (SQLite is built from
# source), ip (tests on an engine of their own) and a static busybox (images with a shell, for tests).
set -euo pipefail

packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
command -v ip >/dev/null || packages+=(iproute2)
command -v busybox >/dev/null || packages+=(busybox-static)
[ ${#packages[@]} -gt 0 ] || exit 0

[ "$(id -u)" = 0 ] || { echo "error: ${packages[*]} missing, and installing needs root: run this as root, or install them" >&2; exit 1; }
echo "installing ${packages[*]} ..."
log=$(mktemp)
if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "error: ${packages[*]} could not be installed; the log is $log" >&2
    exit 1
fi
rm -f "$log"
