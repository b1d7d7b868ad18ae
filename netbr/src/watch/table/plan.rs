//! When a guest is asked whether it has an address, and how many questions it gets a second.

use std::time::{Duration, Instant};

/// Milliseconds after the start, and whether to ask by a probe.
type Step = (u64, bool);

/// A guest that just got an address configures it within milliseconds or, where it tries it out first, within about 7 s (RFC
/// 5227, 2.1.1), and must hear no probe until then.
const FRESH_NAMED: &[Step] = &[
    (0, false),
    (20, false),
    (100, false),
    (300, false),
    (1_000, false),
    (3_000, false),
    (10_000, true),
    (20_000, true),
    (40_000, true),
];
const FRESH: &[Step] = &[(10_000, true), (20_000, true), (40_000, true)];
const SETTLED_NAMED: &[Step] =
    &[(0, false), (100, false), (300, false), (1_000, false), (3_000, true), (5_000, true)];
const SETTLED: &[Step] = &[(0, true), (200, true), (1_000, true), (3_000, true)];

/// How long the last question waits for its answer.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// What to do next about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask, by name or by a probe.
    Ask {
        /// By a probe.
        probe: bool,
    },
    /// All was asked in vain.
    GiveUp,
}

/// The questions about one address: a bounded number, further and further apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) start: Instant,
    steps: &'static [Step],
    give_up: Instant,
}

impl Plan {
    /// `fresh`: the guest may still be trying the address out. `named`: there is an address to ask from.
    pub(super) fn new(start: Instant, fresh: bool, named: bool) -> Self {
        let steps = match (fresh, named) {
            (true, true) => FRESH_NAMED,
            (true, false) => FRESH,
            (false, true) => SETTLED_NAMED,
            (false, false) => SETTLED,
        };
        let last = steps.last().map_or(0, |(after, _)| *after);
        Self { start, steps, give_up: start + Duration::from_millis(last) + LAST_WAIT }
    }

    /// What is next, and when.
    pub(super) fn next(&self) -> (Instant, Next) {
        match self.steps.first() {
            Some((after, probe)) => (self.start + Duration::from_millis(*after), Next::Ask { probe: *probe }),
            None => (self.give_up, Next::GiveUp),
        }
    }

    /// A question was asked now, perhaps late: goes on to the next one, and gives the last one its time.
    pub(super) fn asked(&mut self, now: Instant) {
        self.steps = self.steps.get(1..).unwrap_or_default();
        self.give_up = self.give_up.max(now + LAST_WAIT);
    }
}

/// At most so many questions a second and so many at once, whatever the guest does to provoke them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// When all that was sent would have been sent at an even pace.
    even: Option<Instant>,
}

impl Pace {
    const INTERVAL: Duration = Duration::from_millis(4);
    const AT_ONCE: Duration = Duration::from_millis(4 * 31);

    pub(super) const fn new() -> Self {
        Self { even: None }
    }

    /// When the next one may be sent, at the earliest.
    pub(super) fn free(&self) -> Option<Instant> {
        self.even.and_then(|even| even.checked_sub(Self::AT_ONCE))
    }

    /// Whether one may be sent now, which then counts as sent.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let free = self.free().is_none_or(|free| free <= now);
        if free {
            self.even = Some(self.even.map_or(now, |even| even.max(now)) + Self::INTERVAL);
        }
        free
    }
}
