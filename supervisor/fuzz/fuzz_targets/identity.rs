//! What a guest says of its identity: it is believed or refused, and what is kept of it is short and harmless.
#![no_main]

use libfuzzer_sys::fuzz_target;
use supervisor::identity::{Report, Wanted};

fuzz_target!(|data: &[u8]| {
    let wanted = Wanted { hostname: Some("web".to_owned()), ..Wanted::default() };
    // Once as it is, once as if it had the right first and last lines.
    let framed = [b"midge-identity 1\n", data, b"end\n"].concat();
    for text in [data, &framed] {
        match Report::read(text, &wanted) {
            Ok(report) => {
                assert!(wanted.items().iter().all(|name| report.items.contains_key(name)));
                let harmless = |text: &str| text.chars().count() <= 300 && !text.chars().any(char::is_control);
                assert!(report.items.values().all(|item| harmless(&item.detail)));
                assert!(report.addresses.len() <= 16);
            }
            Err(error) => assert!(error.to_string().len() < 1000),
        }
    }
});
