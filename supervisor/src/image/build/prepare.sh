#!/bin/sh
# prepare.sh ROOT: runs when the essential packages are in ROOT and before all others, so that what is written here is
# already in force when their maintainer scripts run. The initial RAM disk is then made once, and made right.
set -eu
root=$1

# --- initial RAM disk ---------------------------------------------------------------------------------------------
# Only what a disk of QEMU's needs (initramfs.conf(5), MODULES=list), and no search for a swap device to resume from.
conf=$root/etc/initramfs-tools
mkdir -p "$conf/conf.d" "$conf/hooks" "$conf/scripts/init-top" "$conf/scripts/init-bottom"
cat > "$conf/conf.d/midge" <<'END'
MODULES=list
COMPRESS=gzip
RESUME=none
END

cat > "$conf/hooks/midge" <<'END'
#!/bin/sh -e
[ "$1" != prereqs ] || exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_mmio virtio_blk virtio_console ext4 virtio_scsi sd_mod ahci nvme
# The scripts that init-top/udev and init-bottom/udev of /etc take the place of, for when they are needed after all.
cp -p /usr/share/initramfs-tools/scripts/init-top/udev "$DESTDIR/scripts/udev-start"
cp -p /usr/share/initramfs-tools/scripts/init-bottom/udev "$DESTDIR/scripts/udev-stop"
END

# A root on virtio-blk needs no udev in the initial RAM disk: the kernel itself makes /dev/vda. Starting udev there, having it
# look at every device and stopping it again costs more than a second of an emulated guest's time.
cat > "$conf/scripts/init-top/udev" <<'END'
#!/bin/sh -e
[ "$1" != prereqs ] || exit 0
# On the console, for whoever measures the boot.
echo "<5>midge: user space" > /dev/kmsg || true
modprobe -q -a virtio_pci virtio_mmio virtio_blk virtio_console || true
[ -b "$ROOT" ] || exec /scripts/udev-start
END
cat > "$conf/scripts/init-bottom/udev" <<'END'
#!/bin/sh -e
[ "$1" != prereqs ] || exit 0
[ ! -e /run/udev/control ] || exec /scripts/udev-stop
mount -n -o move /dev "${rootmnt:?}/dev" || mount -n --move /dev "$rootmnt/dev"
if command -v nuke > /dev/null; then nuke /dev; else rm -rf /dev; fi
ln -s "$rootmnt/dev" /dev
END
chmod 755 "$conf/hooks/midge" "$conf/scripts/init-top/udev" "$conf/scripts/init-bottom/udev"

# --- services -----------------------------------------------------------------------------------------------------
units=$root/etc/systemd/system
mkdir -p "$units" "$root/etc/modprobe.d" "$root/etc/systemd/network" "$root/etc/ssh/sshd_config.d"

# Any Ethernet interface asks by DHCP, under the address of its card: a clone that keeps its machine-id then still gets
# an address of its own.
cat > "$root/etc/systemd/network/80-midge.network" <<'END'
[Match]
Type=ether

[Network]
DHCP=yes

[DHCPv4]
ClientIdentifier=mac
END

# Networks by credentials, as systemd-network-generator does it from systemd 256 on; that one costs every boot its start, this one only
# those that bring networks. systemd.system-credentials(7) has the credentials' folder.
cat > "$units/midge-network.service" <<'END'
[Unit]
Description=Take networks from credentials
DefaultDependencies=no
ConditionPathExistsGlob=/run/credentials/@system/network.network.*
Before=systemd-networkd.service

[Service]
Type=oneshot
ExecStart=/bin/sh -ec 'mkdir -p /run/systemd/network; for file in /run/credentials/@system/network.network.*; do install -m 644 "$$file" "/run/systemd/network/$${file##*/network.network.}.network"; done'

[Install]
WantedBy=systemd-networkd.service
END

# At boot udev is told of the devices that a guest of QEMU's has a use for, those first that make it of use to its host. The others, two
# hundred terminals, ACPI objects and processors without a driver of their own, cost an emulated guest a fifth of its boot. What comes
# later is told of by the kernel as ever; `udevadm trigger` makes up for the rest.
mkdir -p "$units/systemd-udev-trigger.service.d"
cat > "$units/systemd-udev-trigger.service.d/midge.conf" <<'END'
[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --prioritized-subsystem=virtio,virtio-ports,block,net --subsystem-match=virtio --subsystem-match=virtio-ports --subsystem-match=block --subsystem-match=net --subsystem-match=pci --subsystem-match=scsi --subsystem-match=nvme --subsystem-match=usb --subsystem-match=input --subsystem-match=rtc
ExecStart=-udevadm trigger --action=add --sysname-match=ttyS0 --sysname-match=ttyAMA0 --sysname-match=hvc0 --sysname-match=LNXPWRBN* --sysname-match=PNP0C0C* --sysname-match=LNRO0005* --sysname-match=QEMU0001* --sysname-match=QEMU0002*
END

# Drivers of what every machine of QEMU's has or pretends to have and no guest of midge's uses: loading them is long work for an
# emulated guest. `modprobe NAME` still loads them (modprobe.d(5)).
cat > "$root/etc/modprobe.d/midge.conf" <<'END'
blacklist ahci
blacklist i2c_i801
blacklist iTCO_wdt
blacklist kvm_amd
blacklist kvm_intel
blacklist lpc_ich
blacklist pcspkr
blacklist powernow_k8
blacklist psmouse
blacklist serio_raw
END

# Host keys belong to one machine, so they are made at its first boot. Ed25519 only: an RSA key takes seconds.
cat > "$units/ssh-host-key.service" <<'END'
[Unit]
Description=Make the SSH host key of this machine
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=ssh.service
END
cat > "$root/etc/ssh/sshd_config.d/midge.conf" <<'END'
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
END
