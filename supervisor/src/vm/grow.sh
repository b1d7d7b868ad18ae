# shellcheck shell=sh
# grow MOUNT: makes the partition below MOUNT, where there is one, and its file system as large as they can be.
mount=$1
fail() {
    echo "$*" >&2
    exit 1
}
source=$(findmnt -n -o SOURCE --target "$mount") || fail "findmnt does not know $mount"
kind=$(findmnt -n -o FSTYPE --target "$mount")
case $source in
    /dev/*) ;;
    *) fail "$mount is on $source, which is no disk" ;;
esac
name=$(basename "$(readlink -f "$source")")
block=/sys/class/block/$name
if [ -e "$block/partition" ]; then
    number=$(cat "$block/partition")
    disk=$(basename "$(readlink -f "$block/..")")
    # In sectors of 512 bytes. A GPT keeps its copy at the end, and tools leave the last MiB free.
    left=$(($(cat "$block/../size") - $(cat "$block/start") - $(cat "$block/size")))
    if [ "$left" -gt 4096 ]; then
        if command -v growpart > /dev/null; then
            said=$(growpart "/dev/$disk" "$number" 2>&1) || fail "growpart: $said"
        elif command -v sfdisk > /dev/null && command -v partx > /dev/null; then
            said=$(echo ', +' | sfdisk --no-reread --no-tell-kernel -N "$number" "/dev/$disk" 2>&1) || fail "sfdisk: $said"
            said=$(partx --update --nr "$number" "/dev/$disk" 2>&1) || fail "partx: $said"
        else
            fail "the guest has neither growpart (package cloud-guest-utils) nor sfdisk (package fdisk)"
        fi
    fi
fi
case $kind in
    ext2 | ext3 | ext4) said=$(resize2fs "$source" 2>&1) || fail "resize2fs: $said" ;;
    xfs) said=$(xfs_growfs "$mount" 2>&1) || fail "xfs_growfs: $said" ;;
    btrfs) said=$(btrfs filesystem resize max "$mount" 2>&1) || fail "btrfs: $said" ;;
    *) fail "nobody here knows how to grow $kind" ;;
esac
df -B1 --output=size "$mount" | tail -n 1
