#!/usr/bin/env bash
# Makes sure that there are an `etcd` and an `etcdctl` for the tests: installs Debian's etcd-server and etcd-client where
# one is missing. Only the programs are wanted, so the distribution's own service is kept from starting. An etcd that is there is left as it is.
set -euo pipefail

both() {
    command -v etcd >/dev/null && command -v etcdctl >/dev/null
}

both && exit 0

[ "$(id -u)" = 0 ] || { echo "error: there is no etcd or no etcdctl, and installing it needs root: run this as root, or put both on the PATH" >&2; exit 1; }

echo "installing etcd (etcd-server, etcd-client) ..."
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=1
fi
trap '[ -z "$made" ] || rm -f "$policy"' EXIT
if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends etcd-server etcd-client; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "error: etcd could not be installed; its log is $log" >&2
    exit 1
fi
rm -f "$log"
both || { echo "error: etcd-server and etcd-client are installed and are not on the PATH" >&2; exit 1; }
