//! What `identify` decides without the kernel's help: what it is asked for, how it says what it did, and the texts and messages that it
//! reads and writes on the way.
#![cfg_attr(not(test), no_std)]

pub mod dbus;
pub mod netlink;
pub mod report;
pub mod request;
pub mod text;
pub mod texts;
