//! The web page.

use alloc::string::String;
use core::fmt::{self, Write as _};
use core::time::Duration;

/// What the page shows.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Name of the guest.
    pub name: &'a str,
    /// Version of the unikernel.
    pub version: &'a str,
    /// Time since the kernel's first instruction.
    pub uptime: Duration,
    /// Address and prefix length.
    pub address: fmt::Arguments<'a>,
    /// Usable RAM in MiB.
    pub memory_mib: u64,
    /// The kernel command line.
    pub cmdline: &'a str,
    /// Requests answered so far, this one included.
    pub requests: u64,
}

/// Writes the page.
pub fn render(facts: &Facts<'_>) -> String {
    let mut page = String::with_capacity(768);
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title></head>\n\
         <body><h1>Hello from {name}</h1>\n<table>\n\
         <tr><th>version<td>hello {version}\n\
         <tr><th>uptime<td>{seconds}.{millis:03} s\n\
         <tr><th>address<td>{address}\n\
         <tr><th>memory<td>{memory} MiB\n\
         <tr><th>command line<td>{cmdline}\n\
         <tr><th>requests<td>{requests}\n\
         </table></body></html>\n",
        name = Escaped(facts.name),
        version = facts.version,
        seconds = facts.uptime.as_secs(),
        millis = facts.uptime.subsec_millis(),
        address = facts.address,
        memory = facts.memory_mib,
        cmdline = Escaped(facts.cmdline),
        requests = facts.requests,
    );
    page
}

/// Text with the characters that HTML gives a meaning replaced.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['<', '>', '&']) {
            let Some(last @ ('<' | '>' | '&')) = part.chars().next_back() else {
                f.write_str(part)?;
                continue;
            };
            f.write_str(&part[..part.len() - 1])?;
            f.write_str(match last {
                '<' => "&lt;",
                '>' => "&gt;",
                _ => "&amp;",
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_each_fact_and_escapes_foreign_text() {
        let page = render(&Facts {
            name: "<b>&co",
            version: "1.2.3",
            uptime: Duration::from_millis(61_007),
            address: format_args!("10.0.2.15/24"),
            memory_mib: 64,
            cmdline: "a<script>",
            requests: 9,
        });
        for part in [
            "&lt;b&gt;&amp;co",
            "hello 1.2.3",
            "61.007 s",
            "10.0.2.15/24",
            "64 MiB",
            "a&lt;script&gt;",
            "<td>9\n",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("<script>"));
    }
}
