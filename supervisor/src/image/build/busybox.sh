#!/bin/sh
# busybox.sh: fetches Debian's BusyBox without libraries and leaves its program in $OUT. As build.sh, it runs in namespaces of its own.
set -eu
exec 3<&0 < /dev/null
{
    cat <&3 > /dev/null
    kill -s KILL -- -1
} &
exec 3<&-

echo "midge: phase packages" >&2
printf '%s\n' "$SOURCES" > "$WORK/sources.list"
proxy='' valid=''
if command -v apt-config > /dev/null; then
    eval "$(apt-config shell proxy Acquire::http::Proxy valid Acquire::Check-Valid-Until)"
fi
[ -z "$proxy" ] || export http_proxy="$proxy"
set --
[ "$valid" != false ] || set -- --aptopt='Acquire::Check-Valid-Until "false"'
# Unpacked and not installed: one static program needs nothing around it.
mmdebstrap --verbose --mode=unshare --format=directory --variant=extract \
    --architectures="$ARCHITECTURE" --include=busybox-static \
    --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' "$@" \
    "$SUITE" "$WORK/root" "$WORK/sources.list"
cp "$(find "$WORK/root/bin" "$WORK/root/usr/bin" -name busybox -type f | head -n 1)" "$OUT/busybox"
# Here, where files of every owner may be removed.
rm -rf "$WORK/root"
