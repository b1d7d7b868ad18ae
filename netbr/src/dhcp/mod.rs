//! DHCP (RFC 2131): a server for networks of one's own, a client on behalf of a MAC.
