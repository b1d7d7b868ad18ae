//! How far something is that goes through many bytes.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::Voice;
use super::units;

/// How often a line says where it is when nobody watches a bar.
const EVERY: Duration = Duration::from_secs(10);

/// How far it is: a bar on a terminal, else a line now and then.
pub(super) struct Transfer {
    voice: Voice,
    bar: Option<ProgressBar>,
    begun: Option<(Instant, u64)>,
    said: Option<Instant>,
}

impl Transfer {
    /// One that has not begun.
    pub(super) fn new(voice: Voice) -> Self {
        Self { voice, bar: None, begun: None, said: None }
    }

    /// It has begun and not ended.
    pub(super) fn is_going_on(&self) -> bool {
        self.begun.is_some()
    }

    /// So many bytes are done, of so many where that is known. What was done at the first call does not count for the rate.
    pub(super) fn show(&mut self, have: u64, total: Option<u64>) {
        let now = Instant::now();
        let (begun, first) = *self.begun.get_or_insert((now, have));
        if self.voice.animated() {
            let bar = self.bar.get_or_insert_with(|| bar(have, total));
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(have);
        } else if now - *self.said.get_or_insert(now) >= EVERY {
            self.said = Some(now);
            self.voice.note(line(have, total, have - first.min(have), now - begun));
        }
    }

    /// It is over: a bar is wiped away.
    pub(super) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        (self.begun, self.said) = (None, None);
    }
}

/// A failure leaves no bar behind.
impl Drop for Transfer {
    fn drop(&mut self) {
        self.end();
    }
}

fn bar(have: u64, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
        None => "{spinner} {binary_bytes}, {binary_bytes_per_sec}",
    };
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    // A template that a test has seen work.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    // What was there before does not count for the rate.
    bar.with_position(have)
}

/// One line of how far a download is.
fn line(have: u64, total: Option<u64>, came: u64, took: Duration) -> String {
    let rate = u128::from(came) * 1000 / took.as_millis().max(1);
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    let speed = format!("{}/s", units::bytes(rate));
    match total {
        Some(total) => {
            let percent = u128::from(have) * 100 / u128::from(total.max(1));
            let left = total.saturating_sub(have).checked_div(rate).map(Duration::from_secs);
            let left = left.map_or(String::new(), |left| format!(", {} left", units::age(left)));
            format!("{percent}% of {}, {speed}{left}", units::bytes(total))
        }
        None => format!("{}, {speed}", units::bytes(have)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_how_fast_and_how_long() {
        let second = Duration::from_secs(1);
        assert_eq!(line(50 << 20, Some(100 << 20), 10 << 20, second), "50% of 100M, 10M/s, 5s left");
        assert_eq!(line(0, Some(100), 0, Duration::ZERO), "0% of 100B, 0B/s");
        assert_eq!(line(3 << 20, None, 3 << 20, 3 * second), "3.0M, 1.0M/s");
        assert_eq!(line(0, Some(0), 0, second), "0% of 0B, 0B/s");
    }

    #[test]
    fn the_bars_templates_are_understood() {
        for total in [None, Some(100)] {
            assert_eq!(bar(5, total).position(), 5);
        }
        assert!(
            ProgressStyle::with_template("{bar:30} {binary_bytes} of {binary_total_bytes}, {eta} left")
                .is_ok()
        );
    }
}
