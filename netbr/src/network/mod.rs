//! NAT networks, made on demand and removed with their last user.
