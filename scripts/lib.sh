# Shared by the scripts: where things are, how they speak. Sourced, not run.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${SEKI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/seki}
cd "$ROOT"

if [ -t 1 ]; then BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' OFF=$'\e[0m'; else BOLD= DIM= RED= OFF=; fi
step() { printf '%s==>%s %s\n' "$BOLD" "$OFF" "$*"; }
note() { printf '    %s\n' "$*"; }
fail() { printf '%serror:%s %s\n' "$RED" "$OFF" "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"
    else fail "this needs root for: $*  (run it as root, or install sudo)"; fi
}

# The Debian packages among "$@" that are not installed, installed.
need_packages() {
    local missing=() p
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "these packages are needed: ${missing[*]}"
    step "Installing ${#missing[@]} packages: ${missing[*]}"
    local log; log=$(mktemp)
    if ! { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2; rm -f "$log"; fail "the packages could not be installed"
    fi
    rm -f "$log"
}

BUILD_PACKAGES=(gcc libc6-dev meson ninja-build pkg-config libuv1-dev libssl-dev libsqlite3-dev libjansson-dev
    libcurl4-openssl-dev libyaml-dev libnghttp2-dev zlib1g-dev libp11-kit-dev libcmocka-dev node-llhttp python3 python3-venv ca-certificates)
TEST_PACKAGES=(clang-19 libclang-rt-19-dev curl jq procps iproute2 debhelper dpkg-dev lintian mmdebstrap softhsm2 e2fsprogs tzdata)
DEB_PACKAGES=(debhelper dpkg-dev)
# What a cluster without nodes is made of: programs of tools/kubernetes.
CONTROL_PLANE=(etcd etcdctl etcdutl kube-scheduler kube-controller-manager kube-apiserver)
# What nodes of clusters take, and their images.
NODE_PACKAGES=(runc containernetworking-plugins iproute2 iptables nftables conntrack busybox-static e2fsprogs)

# configure DIR OPTIONS...: a meson build directory, made once, looking for new files each time.
configure() {
    local dir=$1; shift
    local log; log=$(mktemp)
    local again=()
    [ -f "$dir/build.ninja" ] && again=(--reconfigure)
    if ! meson setup "${again[@]}" "$dir" "$@" >"$log" 2>&1; then
        tail -n 30 "$log" >&2; rm -f "$log"; fail "configuring $dir failed"
    fi
    rm -f "$log"
}
