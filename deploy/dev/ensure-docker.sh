#!/usr/bin/env bash
# Makes sure that a Docker engine answers: installs Docker from Debian where it is missing, starts dockerd where
# none runs. An engine that answers already is left as it is.
set -euo pipefail

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

if command -v docker >/dev/null && answers; then exit 0; fi

[ "$(id -u)" = 0 ] || { echo "error: no Docker engine answers, and starting one needs root: run this as root, or start Docker" >&2; exit 1; }

if ! command -v docker >/dev/null || ! command -v dockerd >/dev/null; then
    echo "installing Docker (docker.io) ..."
    log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends docker.io iptables iproute2 ca-certificates; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "error: Docker could not be installed; its log is $log" >&2
        exit 1
    fi
    rm -f "$log"
    answers && exit 0
fi

# With an init system, let it start Docker; without one, start dockerd by hand.
if [ -d /run/systemd/system ]; then
    systemctl start docker
else
    echo "starting dockerd (log: /var/log/dockerd.log) ..."
    rm -f /var/run/docker.pid
    setsid nohup dockerd >/var/log/dockerd.log 2>&1 </dev/null &
fi
for _ in $(seq 120); do
    answers && exit 0
    sleep 0.5
done
tail -n 20 /var/log/dockerd.log >&2 || true
echo "error: dockerd was started and does not answer after 60 s; see /var/log/dockerd.log" >&2
exit 1
