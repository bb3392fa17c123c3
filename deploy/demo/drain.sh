#!/usr/bin/env bash
# `make demo-drain`: builds, then shows a drain under load with the coordinator killed in the middle. Makes hosts with
# networks and engines of their own and removes them at its end, also after Ctrl-C. Arguments are the program's.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

[ "$(id -u)" = 0 ] || die "the demo makes network namespaces and engines: run it as root"
deploy/dev/ensure-tools.sh
deploy/dev/ensure-docker.sh
on_hosts demo-drain wharf-demo-drain "$@"
