#!/bin/sh
# finish.sh ROOT: turns the installed system in ROOT into one that any number of machines may start from.
set -eu
root=$1

# The disk is one ext4 file system without partitions. systemd makes it as large as the disk at each boot.
cat > "$root/etc/fstab" <<'END'
/dev/vda / ext4 rw,relatime,x-systemd.growfs 0 0
END

# --- nothing of the machine that built it, nothing that only one machine may have ---------------------------------
echo debian > "$root/etc/hostname"
rm -f "$root/etc/resolv.conf" "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id" \
    "$root/var/lib/systemd/random-seed"
ln -s /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
# Empty, not missing and not `uninitialized`: an id is made at the first boot, and systemd does not ask the console
# (machine-id(5), "First Boot Semantics").
: > "$root/etc/machine-id"

# Haste was for the building only.
sed -i '/^force-unsafe-io$/d' "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"

# The root user has no password: log in by SSH key, or run commands through the guest agent.
chroot "$root" passwd --quiet --lock root

# --- units --------------------------------------------------------------------------------------------------------
systemctl --quiet --root="$root" enable systemd-networkd.service systemd-resolved.service ssh-host-key.service \
    midge-network.service
# Work for a machine that lives for months with a disk of its own; who wants it enables it. Not every release has each.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    getty@tty1.service remote-fs.target systemd-pstore.service systemd-network-generator.service; do
    systemctl --quiet --root="$root" disable "$unit" 2> /dev/null || true
done
# Each costs an emulated guest 50 to 400 ms and finds nothing to do in it: there is no partition table, no encrypted disk, no
# swap to resume from, no TPM, no screen. `systemctl unmask` brings back what somebody needs after all.
for unit in systemd-repart.service systemd-firstboot.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service modprobe@drm.service dev-hugepages.mount dev-mqueue.mount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/system-generators"
for generator in cryptsetup gpt-auto hibernate-resume integritysetup ssh system-update tpm2 veritysetup; do
    ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done
# Only comments are in /etc/modules, but its mere link here starts a service.
rm -f "$root/etc/modules-load.d/modules.conf"

# cloud-init, where it was asked for, fails to set a locale that is not there, and spends seconds on a boot loader that is not there.
if [ -d "$root/etc/cloud" ]; then
    mkdir -p "$root/etc/cloud/cloud.cfg.d"
    printf 'locale: C.UTF-8\ngrub_dpkg:\n  enabled: false\n' > "$root/etc/cloud/cloud.cfg.d/90-midge.cfg"
fi

# Name resolution is no part of the early system, which everything else waits for, nor of the network, which sshd waits for: the vendor's
# unit, without these two orders.
sed 's/^Before=sysinit.target /Before=/; /^Before=/s/network.target //; s/^WantedBy=sysinit.target/WantedBy=multi-user.target/; s/^After=/After=basic.target /' \
    "$root/usr/lib/systemd/system/systemd-resolved.service" > "$root/etc/systemd/system/systemd-resolved.service"
rm -f "$root/etc/systemd/system/sysinit.target.wants/systemd-resolved.service"
systemctl --quiet --root="$root" reenable systemd-resolved.service

# Newer than /usr: no ConditionNeedsUpdate= unit (sysusers, hwdb, ldconfig) finds work at the first boot.
touch "$root/etc/.updated" "$root/var/.updated"
