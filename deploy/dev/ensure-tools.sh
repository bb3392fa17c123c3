#!/usr/bin/env bash
# Installs what building and testing need beside Rust, where it is missing: a C compiler (SQLite is built from
# source), ip (tests on an engine of their own), a static busybox (images with a shell, for tests), HAProxy and Python
# (the test of deploy/haproxy), keepalived and curl (the test of deploy/ha).
set -euo pipefail

packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
command -v ip >/dev/null || packages+=(iproute2)
command -v busybox >/dev/null || packages+=(busybox-static)
command -v haproxy >/dev/null || packages+=(haproxy)
command -v python3 >/dev/null || packages+=(python3)
command -v keepalived >/dev/null || packages+=(keepalived)
command -v curl >/dev/null || packages+=(curl)
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
