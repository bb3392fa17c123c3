#!/usr/bin/env bash
# Writes a root directory with a shell as a tar archive to stdout, from the machine's static busybox: what
# `docker import` makes an image of without a registry. Used by the tests.
#
#   deploy/dev/busybox-root.sh [FILE] | docker import - IMAGE:TAG
#
# FILE lies in the root directory as `content`.
set -euo pipefail

busybox=$(command -v busybox) || { echo "error: busybox is missing: install busybox-static" >&2; exit 1; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir "$root/bin" "$root/tmp" "$root/w"
cp "$busybox" "$root/bin/busybox"
for command in sh cat dd echo grep hostname id ls pwd readlink rm sleep test touch wget; do
    ln -s busybox "$root/bin/$command"
done
[ $# -eq 0 ] || cp "$1" "$root/content"
tar -C "$root" --owner=0 --group=0 -c .
