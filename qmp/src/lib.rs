//! One QEMU's monitor and guest agent.
