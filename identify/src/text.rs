//! Texts in a fixed place: there is no heap.

use core::ffi::CStr;
use core::fmt::{self, Write};

/// A text of fewer than `N` bytes.
#[derive(Debug, Clone)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

/// A path, or a short detail.
pub type Line = Text<256>;

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { bytes: [0; N], length: 0 }
    }
}

impl<const N: usize> Text<N> {
    /// As `format!`; what does not fit is cut off, and then there is no C string of it.
    pub fn of(text: fmt::Arguments<'_>) -> Self {
        let mut out = Self::default();
        // What does not fit is seen by `c_str`.
        let _ = out.write_fmt(text);
        out
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The text; empty where what was cut off was the middle of a letter.
    pub fn str(&self) -> &str {
        core::str::from_utf8(self.bytes()).unwrap_or_default()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// As a C string; none where it was too long, or has a zero byte.
    pub fn c_str(&self) -> Option<&CStr> {
        if self.length == N {
            return None;
        }
        CStr::from_bytes_with_nul(&self.bytes[..=self.length]).ok()
    }

    /// Adds bytes; what does not fit is cut off.
    pub fn push(&mut self, bytes: &[u8]) {
        let taken = bytes.len().min(N - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = N - self.length;
        self.push(text.as_bytes());
        if text.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_no_c_string() {
        let text = Text::<8>::of(format_args!("{}-{}", "abc", 12));
        assert_eq!((text.str(), text.c_str()), ("abc-12", Some(c"abc-12")));
        assert_eq!(Text::<8>::of(format_args!("12345678")).c_str(), None);
        let long = Text::<8>::of(format_args!("123456789"));
        assert_eq!((long.str(), long.c_str()), ("12345678", None));
        assert_eq!(Text::<8>::of(format_args!("a\0b")).c_str(), None);
    }
}
