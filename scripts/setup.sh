#!/usr/bin/env bash
# setup.sh [--tests]: installs what midge needs on Debian 12 or 13, and says what and why. Where nothing is missing it says
# nothing and changes nothing. Rust and make are the user's to bring.
set -euo pipefail

tests=false
for word in "$@"; do
    case $word in
        --tests) tests=true ;;
        *) echo "setup.sh: unknown option $word" >&2; exit 2 ;;
    esac
done

missing=()
# One look at everything that is installed is quicker than one for each package.
installed=$(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' 2> /dev/null | sed -n 's/^installed //p' || true)
# need WHY PACKAGE...: notes the packages that are not installed.
need() {
    local why=$1 package
    shift
    for package in "$@"; do
        if [[ $'\n'$installed$'\n' != *$'\n'$package$'\n'* ]]; then
            missing+=("$package")
            printf 'setup: %-20s %s\n' "$package" "$why"
        fi
    done
}

command -v dpkg-query > /dev/null || {
    echo "setup: this is no Debian; install QEMU 7.2 or later, mmdebstrap, e2fsprogs and OpenSSH's client yourself" >&2
    exit 1
}

need "the virtual machines run in it" qemu-system-x86
need "QEMU's BIOS" seabios
need "writes image disks" qemu-utils
need "builds Debian images from packages" mmdebstrap
need "knows the keys that Debian signs with" debian-archive-keyring
need "makes the images' file systems" e2fsprogs
[ "$(id -u)" = 0 ] || need "lets mmdebstrap work without root" uidmap
need "midge ssh" openssh-client
need "links programs, for cargo" gcc libc6-dev
if $tests; then
    need "a bare-metal kernel that asks by DHCP, booted by tests" ipxe
    need "a bare-metal kernel, booted by tests" memtest86+
    need "a network of its own for a test, with a DHCP server" iproute2 iputils-ping dnsmasq-base
    need "shows tests what midge makes of the firewall" nftables
    need "DHCP clients for midge's server to be tested with" isc-dhcp-client udhcpc dhcpcd-base
    need "tools that tests run in namespaces: arping, sysctl, kill" busybox procps
    need "measures what a network lets through" iperf3
    need "a guest agent to test the client with" qemu-guest-agent
    need "counts system calls and the programs that are started" strace
    need "reads what the unikernel is made of" binutils
    need "partitions the disks that tests import and grow" fdisk
    need "file systems whose files share blocks" btrfs-progs xfsprogs
    need "packs kernels and kernel modules as distributions do" xz-utils zstd
    need "reads YAML as cloud-init does" python3-yaml
    need "shows the report of a comparison as people see it" chromium
fi
[ ${#missing[@]} -gt 0 ] || exit 0

run=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || { echo "setup: run this as root, or install sudo" >&2; exit 1; }
    run=(sudo)
fi
# shellcheck source=/dev/null
. /etc/os-release
target=()
# Debian 12's own QEMU is 7.2, which works; the backports' is faster to start and safer with snapshots.
if [ "${VERSION_CODENAME:-}" = bookworm ] && [[ " ${missing[*]} " == *" qemu-"* ]]; then
    if ! grep -rqs bookworm-backports /etc/apt/sources.list /etc/apt/sources.list.d; then
        mirror=$(sed -nE 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p; s/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+)[[:space:]]+bookworm[[:space:]].*/\2/p' \
            /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null | grep -E '/debian/?$' | head -n 1 || true)
        echo "setup: adding Debian's backports as /etc/apt/sources.list.d/midge-backports.sources, for a recent QEMU"
        printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
            "${mirror:-http://deb.debian.org/debian}" | "${run[@]}" tee /etc/apt/sources.list.d/midge-backports.sources > /dev/null
    fi
fi
# Some other source of the user's may be out of reach; what is needed may be there all the same.
"${run[@]}" apt-get -q update || echo "setup: some package lists could not be fetched" >&2
if [ "${VERSION_CODENAME:-}" = bookworm ] && [[ $(apt-cache policy qemu-system-x86) == *bpo12* ]]; then
    target=(-t bookworm-backports)
fi
install=("${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install)
qemu=() others=()
for package in "${missing[@]}"; do
    case $package in
        qemu-system-x86 | qemu-utils | seabios) qemu+=("$package") ;;
        *) others+=("$package") ;;
    esac
done
if [ ${#qemu[@]} -gt 0 ]; then
    # A mirror without backports must not keep anybody from the QEMU that there is.
    "${install[@]}" "${target[@]}" "${qemu[@]}" || "${install[@]}" "${qemu[@]}"
fi
[ ${#others[@]} -eq 0 ] || "${install[@]}" "${others[@]}"
