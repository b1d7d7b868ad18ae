//! Which addresses the guest behind a port has, or why it has none.
