#!/bin/sh
# qemu-7.2.sh DIR: puts Debian 12's own QEMU 7.2, the oldest that midge supports, into DIR without installing it, for tests.
# DIR/qemu-system-x86_64 runs it. Packages are fetched by apt with settings of its own, so this works on Debian 13 and as any user.
set -eu

[ $# -eq 1 ] || {
    echo "usage: qemu-7.2.sh DIR" >&2
    exit 2
}
mkdir -p "$1"
folder=$(cd "$1" && pwd)
wrapper=$folder/qemu-system-x86_64
if [ -x "$wrapper" ] && "$wrapper" --version > /dev/null 2>&1; then
    exit 0
fi
[ "$(dpkg --print-architecture)" = amd64 ] || {
    echo "qemu-7.2.sh: only for amd64" >&2
    exit 1
}

# The machine's own mirror of Debian, where apt knows one.
# shellcheck disable=SC2016 # apt's own variables
mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME)' 'Created-By: Packages' 2> /dev/null |
    sed -nE 's/ (bookworm|trixie|stable)$//p' | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
state=$folder/apt
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/etc/apt.conf.d" "$state/etc/preferences.d" "$folder/root"
: > "$state/status"
printf 'deb [signed-by=%s] %s bookworm main\n' "$keyring" "$mirror" > "$state/etc/sources.list"


# This machine's apt.conf stays aside, as its hooks are for its own packages; a proxy is what it may need of it.
proxy='' valid=''
eval "$(apt-config shell proxy Acquire::http::Proxy valid Acquire::Check-Valid-Until)"
cat > "$state/apt.conf" << END
Dir::Etc "$state/etc";
Dir::State "$state";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::http::Proxy "$proxy";
Acquire::Check-Valid-Until "${valid:-true}";
END
apt() {
    APT_CONFIG=$state/apt.conf apt-get --quiet=2 "$@"
}
apt update
# With an empty package database everything that QEMU needs is missing, the C library too, so that it runs anywhere.
apt install --download-only --yes --no-install-recommends qemu-system-x86 seabios ipxe-qemu
for package in "$state"/cache/archives/*.deb; do
    # Hooks and links of essential packages are of no use here, their files are.
    dpkg-deb --extract "$package" "$folder/root"
done
rm -rf "$state"

cat > "$wrapper" << END
#!/bin/sh
# Debian 12's QEMU 7.2, with its own loader, libraries and firmware.
root=$folder/root
# The loader by its own name: lib64 has an absolute link to it, which would lead to this machine's.
libraries=\$root/lib/x86_64-linux-gnu:\$root/usr/lib/x86_64-linux-gnu
export QEMU_MODULE_DIR="\$root/usr/lib/x86_64-linux-gnu/qemu"
exec "\$root/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "\$libraries" "\$root/usr/bin/qemu-system-x86_64" \\
    -L "\$root/usr/share/qemu" -L "\$root/usr/share/seabios" -L "\$root/usr/lib/ipxe/qemu" "\$@"
END
chmod 755 "$wrapper"
"$wrapper" --version > /dev/null
