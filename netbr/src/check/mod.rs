//! What on this host keeps guests from the network, and a bridge over the host's uplink.
