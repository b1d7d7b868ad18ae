//! The supervisor's side of the control socket.
pub(in crate::vm) struct Listener;
pub(in crate::vm) struct Conversation;
