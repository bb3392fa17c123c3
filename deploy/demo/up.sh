#!/usr/bin/env bash
# `make demo`: one coordinator, three nodes on this machine's engine, a ReplicationController; scales it, kills
# the coordinator with -9 and shows that no container noticed. Leaves all of it running under .demo/.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

say() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
show() { printf '$ %s\n' "$*"; "$@"; }
# until_ok SECONDS WHAT COMMAND…: waits until the command succeeds
until_ok() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            tail -n 5 "$demo"/*.log >&2 || true
            die "$what: not within the time given; the logs are in $demo"
        fi
        sleep 0.2
    done
}
nodes_ready() { [ "$(wharf get nodes -o json | grep -c '"reason": "AgentReady"')" = 3 ]; }
pods_ready() { [ "$(wharf get rc web | awk 'NR == 2 {print $2 "/" $4}')" = "$1/$1" ]; }
start_coordinator() {
    start coordinator "$bin/wharf-coordinator" run --data-dir "$demo/coordinator" \
        --listen "127.0.0.1:$port" --http "127.0.0.1:$((port + 2))"
    until_ok 30 "the coordinator answers" wharf version
}
running_ids() { ours --filter status=running --format '{{.Names}} {{.ID}}' | sort; }

deploy/dev/ensure-tools.sh
deploy/dev/ensure-docker.sh
command -v cargo >/dev/null || die "cargo is missing: install Rust (https://rustup.rs), then run make demo again"
[ ! -e "$demo" ] || deploy/demo/down.sh

say "Building (the first time takes some minutes)"
cargo build --quiet --workspace --bins
deploy/demo-app/make-image.sh "$image"
docker tag "$image" "$next"
mkdir -p "$demo"
cat >"$demo/env" <<ENV
export PATH="$bin:\$PATH"
export WHARF_CONFIG="$demo/coordinator/admin.yaml"
ENV
. "$demo/env"

say "One coordinator with its embedded store"
show wharf-coordinator init --data-dir "$demo/coordinator" --advertise "127.0.0.1:$port"
docker_cluster=$(sed -n 's/.*"cluster": *"\([^"]*\)".*/\1/p' "$demo/coordinator/cluster.json")
echo "$docker_cluster" >"$demo/cluster"
start_coordinator

say "Three nodes join by one token"
wharf token create --uses 3 -q >"$demo/token"
chmod 600 "$demo/token"
for n in 1 2 3; do
    start "node$n" "$bin/wharf-agent" run --data-dir "$demo/node$n" --coordinators "127.0.0.1:$port" \
        --token-file "$demo/token" --name "node$n" --shared-host --capacity cpu=2,memory=2Gi
done
until_ok 30 "three nodes Ready" nodes_ready
show wharf get nodes

say "A ReplicationController from a file"
show wharf create -f deploy/demo/web.yaml
until_ok 60 "2 pods ready" pods_ready 2
show wharf get rc,pods -o wide

say "Scaled to six"
show wharf scale rc web --replicas=6
until_ok 60 "6 pods ready" pods_ready 6
show wharf get pods -o wide

say "The coordinator is killed with -9 and started again"
before=$(running_ids)
stop coordinator KILL
echo "killed; $(running_ids | wc -l) containers go on without it"
start_coordinator
until_ok 30 "three nodes Ready" nodes_ready
until_ok 30 "6 pods ready" pods_ready 6
after=$(running_ids)
[ "$before" = "$after" ] || { diff <(echo "$before") <(echo "$after") >&2 || true; die "containers changed"; }
echo "$after"
echo "the same $(echo "$after" | wc -l) container ids as before"
show wharf get nodes
show wharf get rc,pods

say "Left running. To go on:"
echo ". .demo/env"
echo "wharf scale rc web --replicas=9"
echo "make demo-down    # removes all of it"
