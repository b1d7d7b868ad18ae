//! A packet socket on one interface (packet(7)), with a kernel filter.
