//! What `init` decides without the kernel's help: what its command line asks for, and which disk is meant.
#![cfg_attr(not(test), no_std)]

pub mod cmdline;
pub mod disk;

/// What the console shows when the root file system is there: from now on the boot is its own.
pub const UP: &str = "midge: root file system up";
/// What the console shows, before a reason, when it is not: whoever watches can boot in another way.
pub const FAILED: &str = "midge: root file system failed: ";
