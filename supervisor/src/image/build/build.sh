#!/bin/sh
# build.sh: makes an image's parts in $OUT; everything it needs comes in the environment. It runs as root, or as root of a
# user namespace, in mount and process namespaces of its own: when it is killed, no mount and no process is left.
set -eu
space=$WORK/space
root=$space/root

# Whoever started this holds the other end of standard input. When it closes, by will or by death, everything in this process
# namespace but its first process, this shell, is killed, and the shell ends with it (kill(2): -1 spares process 1). It is
# passed on as descriptor 3, as a shell gives background commands another standard input.
exec 3<&0 < /dev/null
{
    cat <&3 > /dev/null
    kill -s KILL -- -1
} &
exec 3<&-

# In memory where there is plenty: no waiting for the disk, and nothing left on it when the work is cut short.
mkdir "$space"
available=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB$/\1/p' /proc/meminfo)
if [ "${available:-0}" -ge 4194304 ]; then
    mount -t tmpfs -o size=3g,mode=0711 tmpfs "$space" || echo "no tmpfs here, building on disk" >&2
fi

echo "midge: phase packages" >&2
# $SOURCES has one line of sources.list(5) each.
printf '%s\n' "$SOURCES" > "$WORK/sources.list"
# mmdebstrap leaves this machine's apt.conf aside; two settings of it decide whether the mirror can be used at all.
proxy='' valid=''
if command -v apt-config > /dev/null; then
    eval "$(apt-config shell proxy Acquire::http::Proxy valid Acquire::Check-Valid-Until)"
fi
[ -z "$proxy" ] || export http_proxy="$proxy"
set --
[ "$valid" != false ] || set -- --aptopt='Acquire::Check-Valid-Until "false"'
# The hook's variables are for the shell that mmdebstrap starts.
# shellcheck disable=SC2016
mmdebstrap --verbose --mode=unshare --format=directory --variant=minbase \
    --architectures="$ARCHITECTURE" --include="$INCLUDE" \
    --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --essential-hook='sh "$WORK/prepare.sh" "$1"' "$@" \
    "$SUITE" "$root" "$WORK/sources.list"

echo "midge: phase configure" >&2
sh "$WORK/finish.sh" "$root"
cp "$root"/boot/vmlinuz-* "$OUT/kernel"
cp "$root"/boot/initrd.img-* "$OUT/initrd"

echo "midge: phase disk" >&2
# 2 GiB, or more where many packages were asked for. The file is sparse, and qcow2 leaves out what is zero.
used=$(du --summarize --block-size=1M "$root" | cut -f1)
size=$((used * 3 / 2 + 256))
[ "$size" -ge 2048 ] || size=2048
mke2fs -q -t ext4 -L root -m 1 -d "$root" "$space/disk.raw" "${size}M"
qemu-img convert -f raw -O qcow2 "$space/disk.raw" "$OUT/disk.qcow2"
# Here, where files of every owner may be removed.
rm -rf "$root" "$space/disk.raw"
