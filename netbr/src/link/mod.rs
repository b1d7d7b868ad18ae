//! Bridges, ports, addresses and routes by rtnetlink; taps.
