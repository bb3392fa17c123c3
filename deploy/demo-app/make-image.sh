#!/usr/bin/env bash
# Builds the demo program and makes an image of it without a registry. Used by the demo and by the tests.
#
#   deploy/demo-app/make-image.sh IMAGE:TAG [DOCKER_HOST]
#
# $CARGO names the cargo to use. An image that holds the same program already is left as it is.
set -eu -o pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 IMAGE:TAG [DOCKER_HOST]" >&2
    exit 2
fi
image=$1
export DOCKER_HOST="${2:-${DOCKER_HOST:-unix:///var/run/docker.sock}}"

cd "$(dirname "$0")/../.."
# A target directory of its own: the linker flag must not make cargo rebuild anything else.
target="${CARGO_TARGET_DIR:-target}/demo-app"
mkdir -p "$target"
exec 9>"$target/make-image.lock"
flock 9

"${CARGO:-cargo}" rustc --quiet --locked -p wharf-demo-app --target-dir "$target" -- -C target-feature=+crt-static -C strip=symbols
program="$target/debug/wharf-demo-app"
sum=$(sha256sum "$program" | cut -d' ' -f1)

label=io.wharfinger.demo-app
if [ "$(docker image inspect -f "{{index .Config.Labels \"$label\"}}" "$image" 2>/dev/null)" = "$sum" ]; then
    exit 0
fi

old=$(docker image inspect -f '{{.Id}}' "$image" 2>/dev/null || true)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
install -m 0755 "$program" "$root/app"
tar -C "$root" --owner=0 --group=0 -c app |
    docker import -c 'ENTRYPOINT ["/app"]' -c 'EXPOSE 8080' -c "LABEL $label=$sum" - "$image" >/dev/null

# The image that lost its tag to this one goes, unless a container still needs it.
if [ -n "$old" ] && [ -z "$(docker image inspect -f '{{join .RepoTags ""}}' "$old" 2>/dev/null)" ]; then
    docker image rm "$old" >/dev/null 2>&1 || true
fi
