//! The client on a packet socket.
