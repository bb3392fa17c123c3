#!/usr/bin/env bash
# `make demo-down`: removes what `make demo` made, and nodes that were added to it: processes, containers by the
# cluster's label, image, .demo/.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ -e "$demo" ] || { echo "no demo here: nothing to remove"; exit 0; }

# Agents first: they would put back what is removed.
for program in wharf-agent wharf-coordinator; do stop_all "$program"; done
if [ -s "$demo/cluster" ]; then
    ids=$(ours -q)
    [ -z "$ids" ] || docker rm -f $ids >/dev/null
fi
for tag in "$image" "$next"; do
    if docker image inspect "$tag" >/dev/null 2>&1; then docker rmi "$tag" >/dev/null; fi
done
rm -rf "$demo"
echo "the demo is removed; the Docker engine goes on"
