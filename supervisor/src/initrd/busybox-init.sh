#!/bin/busybox sh
# The first and only program of the image `busybox`.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "$module"
done < /modules

echo '<!doctype html><title>busybox</title><h1>Hello from BusyBox</h1>' > /www/index.html
for word in $(cat /proc/cmdline); do
    case $word in
        midge.page=*) echo "${word#midge.page=}" | base64 -d > /www/index.html ;;
        systemd.hostname=*) hostname "${word#systemd.hostname=}" ;;
    esac
done

ip link set lo up
for card in /sys/class/net/*; do
    card=${card##*/}
    [ "$card" != lo ] || continue
    ip link set "$card" up
    # It goes on in the background once it has an address, to keep it.
    udhcpc -i "$card" -s /etc/lease.sh -t 5 -T 1 -b > /dev/null 2>&1
done
httpd -p 80 -h /www
echo '[init done]'
while :; do
    setsid cttyhack sh
done
