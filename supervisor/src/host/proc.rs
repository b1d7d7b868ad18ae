//! stub
use serde::{Deserialize, Serialize};
/// stub
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pid: i32,
}
impl ProcessId {
    /// stub
    pub fn is_alive(&self) -> bool {
        false
    }
}
