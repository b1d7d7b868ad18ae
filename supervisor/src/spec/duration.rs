//! Lengths of time as people write them: `30s`, `10m`, `1h`, `2d`.

use std::fmt;
use std::str::FromStr;

/// A length of time in whole seconds. Written as a number and `s`, `m`, `h` or `d`; a bare number means
/// seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(u64);

/// Why a text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a length of time: write a whole number and s, m, h or d, such as 30s, 10m, 1h or 2d")]
pub struct DurationError(String);

/// Seconds in each unit, the largest first.
const UNITS: [(u64, char); 4] = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];

impl Duration {
    /// A length of this many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// In seconds.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        Self::from_secs(duration.0)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let bad = || DurationError(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let seconds = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(bad()),
        };
        let number: u64 = number.parse().map_err(|_| bad())?;
        number.checked_mul(seconds).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(seconds, _)| self.0 != 0 && self.0.is_multiple_of(*seconds));
        let (seconds, letter) = unit.unwrap_or(&(1, 's'));
        write!(f, "{}{letter}", self.0 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_understood() {
        for (text, seconds) in
            [("30s", 30), ("30", 30), ("10m", 600), ("1h", 3_600), ("2d", 172_800), (" 5m ", 300), ("0s", 0)]
        {
            assert_eq!(text.parse(), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_length_of_time_is_refused_with_an_example() {
        for text in ["", "m", "1.5h", "-3s", "10min", "1h30m", "99999999999999999999s", "999999999999999999d"]
        {
            let error = text.parse::<Duration>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is not a length of time")), "{error}");
            assert!(error.contains("10m"), "{error}");
        }
    }

    #[test]
    fn the_largest_whole_unit_is_shown() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (90, "90s"), (7_200, "2h"), (86_400, "1d")]
        {
            assert_eq!(Duration::from_secs(seconds).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(seconds: u64) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,20}") {
            let _ = text.parse::<Duration>();
        }
    }
}
