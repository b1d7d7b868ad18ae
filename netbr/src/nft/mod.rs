//! nftables by netlink: veils, masquerading, forwarded ports.
