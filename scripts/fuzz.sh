#!/usr/bin/env bash
# fuzz.sh [SECONDS]: fuzzes every parser for so long each. Needs a nightly Rust and `cargo install cargo-fuzz`.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
for crate in qmp netbr supervisor; do
    [ -d "$root/$crate/fuzz" ] || continue
    cd "$root/$crate"
    if [ "$crate" = supervisor ]; then
        # A file system cannot be guessed: a small one to begin with, which holds what a system does.
        seed=$(mktemp -d)
        mkdir -p "$seed/root/etc" "$seed/root/boot/grub" fuzz/corpus/contents
        echo 'PRETTY_NAME="x"' > "$seed/root/etc/os-release"
        printf 'menuentry x {\nlinux /boot/vmlinuz-1 root=/dev/vda\n}\n' > "$seed/root/boot/grub/grub.cfg"
        { head -c 514 /dev/zero; printf 'HdrS\017\002'; head -c 4096 /dev/zero; } > "$seed/root/boot/vmlinuz-1"
        /usr/sbin/mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -b 1024 -d "$seed/root" "$seed/ext4" 128k
        truncate -s 200k "$seed/gpt"
        printf 'label: gpt\nstart=40, size=256\n' | /usr/sbin/sfdisk -q "$seed/gpt"
        dd if="$seed/ext4" of="$seed/gpt" bs=512 seek=40 conv=notrunc status=none
        qemu-img create -q -f qcow2 -o cluster_size=512 "$seed/qcow2" 64k
        mkdir -p fuzz/corpus/qcow2
        cp "$seed/ext4" "$seed/gpt" fuzz/corpus/contents/
        cp "$seed/qcow2" fuzz/corpus/qcow2/qcow2
        rm -r "$seed"
    fi
    for target in $(cargo +nightly fuzz list); do
        # Disks are larger than the texts that libFuzzer expects.
        cargo +nightly fuzz run "$target" -- -max_total_time="${1:-60}" -print_final_stats=1 -max_len=262144
    done
done
