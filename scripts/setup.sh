#!/bin/sh
# Makes a checkout ready to run: scripts/setup.sh [dev]. What is there already is left alone, so it may be interrupted and repeated.
#
#   TORCH_INDEX=URL   where pip takes torch from, e.g. PyTorch's index of CPU wheels: without CUDA, gigabytes less
#   PYTHON=PATH       the distribution's Python, if it is not /usr/bin/python3: GStreamer's binding is built for that one alone
set -eu
CDPATH='' cd -P -- "$(dirname -- "$0")/.."

extra=${1:-}
python=${PYTHON:-/usr/bin/python3}
stamp=.venv/.longwatch-setup
# Why each is needed stands in docs/dependencies.md.
packages="python3-venv python3-gi python3-gst-1.0 python3-cairo gir1.2-gst-rtsp-server-1.0
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav
    redis-server fonts-dejavu-core"
dev_packages="chromium"

say() { echo "setup: $*"; }

die() {
    echo "setup: $*" >&2
    exit 1
}

main() {
    case $extra in
        dev) packages="$packages $(dev_packages_here)" ;;
        ?*) die "unknown argument $extra; use: scripts/setup.sh [dev]" ;;
    esac
    [ ! -x "$python" ] || check_python
    if command -v dpkg-query >/dev/null; then
        install_packages
    else
        check_by_hand
    fi
    is_done || install_python
    say "done: everything is in .venv and the distribution's packages"
}

dev_packages_here() {
    # Ubuntu's is a snap in disguise; there the tests of the page are skipped unless /usr/bin/chromium exists.
    ! grep -qx 'ID=ubuntu' /etc/os-release 2>/dev/null || return 0
    echo "$dev_packages"
}

check_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$python is $("$python" -V 2>&1), and 3.11 or newer is needed: use Debian 12, Ubuntu 24.04 or newer, or the container (deploy/)"
}

# ---- packages of the distribution

install_packages() {
    missing=$(for package in $packages; do is_installed "$package" || printf ' %s' "$package"; done)
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086  # a list
    set -- apt-get install -y --no-install-recommends $missing
    by_hand="missing packages, which this script cannot install here. Run, and then try again:

    sudo apt-get update && sudo $*
"
    command -v apt-get >/dev/null || die "$by_hand"
    become_root || die "$by_hand"
    say "installing from the distribution:$missing"
    quietly as_root apt-get update || say "apt-get update failed; going on with the lists that are there"
    keep_redis_stopped
    quietly as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 "$@" -o DPkg::Lock::Timeout=300 || die "that failed; by hand: sudo $*"
    let_redis_be
}

is_installed() {
    # Any redis-server will do, also one that did not come as a package.
    { [ "$1" = redis-server ] && command -v redis-server >/dev/null; } ||
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

become_root() {
    [ "$(id -u)" -ne 0 ] || return 0
    command -v sudo >/dev/null || return 1
    sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# The package would start a server on port 6379, now and with the machine. Longwatch starts its own, so nobody asked for that one: its
# service is masked while the package is installed, and disabled after. (RUNLEVEL=1 does the same where systemd does not run.)
masked=
keep_redis_stopped() {
    case " $missing " in *" redis-server "*) ;; *) return 0 ;; esac
    masked=yes
    [ ! -d /run/systemd/system ] || quietly as_root systemctl mask --runtime redis-server.service || say "the package's own Redis may start"
}

let_redis_be() {
    [ -n "$masked" ] || return 0
    masked=
    [ ! -d /run/systemd/system ] || quietly as_root systemctl unmask --runtime redis-server.service || return 0
    is_installed redis-server || return 0
    if [ -d /run/systemd/system ]; then
        quietly as_root systemctl disable redis-server.service || return 0
    else
        quietly as_root update-rc.d redis-server disable || return 0
    fi
}

check_by_hand() {
    { has_binding && command -v redis-server >/dev/null; } || die "neither Debian nor Ubuntu: install what corresponds to these packages first:
$packages"
}

has_binding() {
    "$python" -c '
import cairo, gi
for name in "Gst", "GstApp", "GstRtspServer":
    gi.require_version(name, "1.0")' 2>/dev/null
}

# ---- packages of Python

wanted() {
    { pwd && "$python" -V && cat pyproject.toml scripts/setup.sh; } | cksum
}

is_done() {
    [ -x .venv/bin/python ] || return 1
    # What was set up for development serves for running too.
    case $(cat "$stamp" 2>/dev/null) in "$(wanted) dev" | "$(wanted) $extra") ;; *) return 1 ;; esac
}

install_python() {
    check_python
    if ! is_venv; then
        say "making .venv with $python"
        "$python" -m venv --clear --system-site-packages .venv
    fi
    rm -f "$stamp"
    say "installing Python packages (about 2 minutes; longer on a slow line) ..."
    install_torch
    pip install -e ".${extra:+[$extra]}"
    echo "$(wanted) $extra" >"$stamp"
}

is_venv() {
    # A venv names its own place, and so does not work in another.
    grep -qsF " $PWD/.venv" .venv/pyvenv.cfg &&
        .venv/bin/python -c 'import cairo, gi' 2>/dev/null && .venv/bin/python -m pip --version >/dev/null 2>&1
}

install_torch() {
    if [ -n "${TORCH_INDEX:-}" ]; then
        pip install --index-url "$TORCH_INDEX" "$(sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)"
    elif [ ! -e /proc/driver/nvidia ]; then
        say "no NVIDIA GPU here: if pip fetches gigabytes of CUDA, stop it, and set TORCH_INDEX to PyTorch's index of CPU wheels"
    fi
}

pip() {
    .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input "$@"
}

# ----

quietly() {
    "$@" >"$log" 2>&1 </dev/null || { cat "$log" >&2 && return 1; }
}

log=$(mktemp)
trap 'let_redis_be; rm -f "$log"' EXIT
trap 'exit 130' INT TERM
main
