#!/bin/sh
# What udhcpc found out, put into force.
case $1 in
    deconfig)
        ip address flush dev "$interface"
        ;;
    bound|renew)
        ip address flush dev "$interface"
        ip address add "$ip/$mask" dev "$interface"
        for gateway in $router; do
            ip route add default via "$gateway" dev "$interface"
            break
        done
        : > /etc/resolv.conf
        for server in $dns; do
            echo "nameserver $server" >> /etc/resolv.conf
        done
        ;;
esac
