#!/usr/bin/env bash
# demo.sh [MIDGE]: boots the unikernel `hello` and Debian side by side, under the same flags, and shows what it measured.
# Everything lives in folders of its own and is removed at the end; only the built image stays, in the user's cache.
set -euo pipefail
midge=$(realpath "${1:-target/release/midge}")
work=$(mktemp -d "${TMPDIR:-/tmp}/midge-demo-XXXXXX")
export MIDGE_HOME=$work/home MIDGE_RUN=$work/run
# A look at midge shall not change the host's networks, whoever takes it.
export MIDGE_NET=user

finish() {
    "$midge" rm --force --if-exists hello debian > "$work/rm.log" 2>&1 || cat "$work/rm.log" >&2
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() {
    if [ -t 1 ]; then printf '\n\033[1m== %s\033[0m\n' "$*"; else printf '\n== %s\n' "$*"; fi
}

say "This host"
"$midge" version
"$midge" doctor || true

say "Debian 12, from its packages (about a minute the first time, then from the cache)"
"$midge" image build debian:12
"$midge" image ls

say "Two VMs of the same spec: 1 CPU, 512 MiB, one NIC. Only what they boot differs"
port=$((20000 + RANDOM % 10000))
"$midge" create hello --image hello --memory 512M -p "$port:80"
"$midge" create debian --image debian:12 --memory 512M -p "$((port + 1)):80"
"$midge" cmdline hello --diff debian

say "Both boot at the same time"
"$midge" start hello debian --wait

say "A command in Debian"
# shellcheck disable=SC2016 # the variables are the guest's
"$midge" exec debian -- sh -c '. /etc/os-release; echo "$PRETTY_NAME, kernel $(uname -r), up $(cut -d" " -f1 /proc/uptime) s"'

say "The unikernel's web page, http://127.0.0.1:$port/"
exec 3<> "/dev/tcp/127.0.0.1/$port"
printf 'GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n' >&3
cat <&3
exec 3>&-

say "What they use"
"$midge" ls
"$midge" stats

say "Both stop"
"$midge" stop hello debian
"$midge" ls
