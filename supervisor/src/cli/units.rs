//! Times and sizes as people read them. Pure.

use std::time::Duration;

/// A length of time in its two largest units: `45s`, `3m 20s`, `2h 5m`, `3d 4h`.
pub(super) fn age(length: Duration) -> String {
    let s = length.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m {}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h {}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// Bytes with a binary unit: `512B`, `4.0K`, `1.5G`.
pub(super) fn bytes(bytes: u64) -> String {
    let mut unit = 0;
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = bytes as f64;
    while value >= 1024.0 && unit < 5 {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes}B"),
        _ if value < 10.0 => format!("{value:.1}{}", "BKMGTP".as_bytes()[unit] as char),
        _ => format!("{value:.0}{}", "BKMGTP".as_bytes()[unit] as char),
    }
}

/// Microseconds as milliseconds: `7.3ms`.
pub(super) fn milliseconds(microseconds: u64) -> String {
    let tenths = microseconds.saturating_add(50) / 100;
    format!("{}.{}ms", tenths / 10, tenths % 10)
}

/// From a point in time until another; nothing when the clock was set back in between.
pub(super) fn between(from: jiff::Timestamp, to: jiff::Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A point in time, in UTC to the second.
pub(super) fn moment(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3_599, "59m 59s"), (7_500, "2h 5m"), (273_600, "3d 4h")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn sizes() {
        for (size, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (4096, "4.0K"),
            (512 << 20, "512M"),
            (3 << 29, "1.5G"),
            (u64::MAX, "16384P"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn short_times() {
        for (time, text) in [(0, "0.0ms"), (49, "0.0ms"), (7_349, "7.3ms"), (119_950, "120.0ms")] {
            assert_eq!(milliseconds(time), text);
        }
    }

    #[test]
    fn a_clock_set_back_gives_no_age() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        assert_eq!(between(now + Duration::from_secs(5), now), Duration::ZERO);
        assert_eq!(between(now, now + Duration::from_secs(5)), Duration::from_secs(5));
    }
}
