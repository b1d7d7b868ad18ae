//! JSON that every YAML reader reads as the same.

use serde_json::Value;

/// A value as JSON in which everything that YAML does not take for printable, or takes for the end of a line, is escaped (YAML 1.1, 4.1.1
/// and 4.1.4). Characters beyond the first plane stay as they are: JSON would write each as two escapes, and YAML would read two
/// characters.
pub(super) fn ascii(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        let code = u32::from(c);
        if (0x7f..=0xffff).contains(&code) {
            out.push_str(&format!("\\u{code:04x}"));
        } else {
            out.push(c);
        }
    }
    out
}
