# Shared by up.sh and down.sh: places, and how to start and stop a program of the demo. By drain.sh and ha.sh: how to run a
# program that makes hosts of its own.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
demo=$root/.demo
bin=${CARGO_TARGET_DIR:-$root/target}/debug
image=wharf-demo:1.0
# The same program under another name, to update to.
next=wharf-demo:2.0
port=${WHARF_DEMO_PORT:-7443}

die() { echo "error: $*" >&2; exit 1; }

# on_hosts TARGET PROGRAM ARGS…: builds, makes the tests' image (one that was there before stays), runs PROGRAM
on_hosts() {
    local target=$1 program=$2 needed
    shift 2
    command -v cargo >/dev/null || die "cargo is missing: install Rust (https://rustup.rs), then run make $target again"
    for needed in ip nsenter dockerd; do
        command -v "$needed" >/dev/null || die "$needed is missing: install it, then run make $target again"
    done
    printf '\n%s\n' "Building (the first time takes some minutes)"
    cargo build --quiet --workspace --bins
    # Of the whole script, since the trap reads them at its end.
    app=wharf-test-app:1
    kept=$(docker image inspect -f '{{.Id}}' "$app" 2>/dev/null || true)
    trap '[ -n "$kept" ] || docker rmi "$app" >/dev/null 2>&1 || true' EXIT
    deploy/demo-app/make-image.sh "$app"
    "$bin/$program" "$@"
}

# start NAME PROGRAM ARGS…: in the background, output to .demo/NAME.log, pid in .demo/NAME.pid
start() {
    local name=$1
    shift
    setsid nohup "$@" >>"$demo/$name.log" 2>&1 </dev/null &
    # Its end by a signal is part of the show, not a message of this shell.
    disown
    echo $! >"$demo/$name.pid"
}

# stop NAME SIGNAL: only if that pid still is one of our programs with this demo's directory
stop() {
    local pid
    pid=$(cat "$demo/$1.pid" 2>/dev/null) || return 0
    if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q -- "$demo/"; then
        kill -s "$2" "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    fi
    rm -f "$demo/$1.pid"
}

# stop_all PROGRAM: every process of it that works below .demo/, also what somebody started there by hand
stop_all() {
    local exe pid dir
    for exe in /proc/[0-9]*/exe; do
        # Wherever it was built: the target directory may be another one by now.
        case $(readlink "$exe" 2>/dev/null) in */"$1" | */"$1 (deleted)") ;; *) continue ;; esac
        pid=$(basename "$(dirname "$exe")")
        # The last one counts, as for the program itself.
        dir=$(tr '\0' '\n' <"/proc/$pid/cmdline" | sed -n '/^--data-dir$/{n;p}; s/^--data-dir=//p' | tail -n 1)
        case $(cd "/proc/$pid/cwd" && realpath -m -- "$dir") in "$demo"/*) ;; *) continue ;; esac
        kill "$pid" 2>/dev/null || continue
        while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    done
}

# containers of this demo's cluster, by label
ours() { docker ps -a --no-trunc --filter "label=io.wharfinger.cluster=$(cat "$demo/cluster")" "$@"; }
