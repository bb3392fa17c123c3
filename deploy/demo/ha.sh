#!/usr/bin/env bash
# `make demo-ha`: builds, then shows three coordinators lose each other under load. Makes machines with
# networks, etcd members and engines of their own and removes them at its end, also after Ctrl-C. Arguments are the program's.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

[ "$(id -u)" = 0 ] || die "the demo makes network namespaces and engines: run it as root"
deploy/dev/ensure-tools.sh
deploy/dev/ensure-docker.sh
deploy/dev/ensure-etcd.sh
on_hosts demo-ha wharf-demo-ha "$@"
