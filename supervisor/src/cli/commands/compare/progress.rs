//! How far a comparison is, and how much longer it may take, on stderr.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cli::output::{self, Voice};
use crate::cli::units;

/// Counts boots, which is what a comparison's time goes into.
#[derive(Debug)]
pub(super) struct Progress {
    voice: Voice,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    guests: BTreeMap<String, Boots>,
    done: u32,
}

/// The boots of one guest.
#[derive(Debug, Clone, Copy, Default)]
struct Boots {
    planned: u32,
    done: u32,
    took: Duration,
}

impl Progress {
    pub(super) fn new(voice: Voice) -> Self {
        Self { voice, state: RefCell::default() }
    }

    /// So many boots of a guest are to come.
    pub(super) fn plan(&self, guest: &str, boots: u32) {
        self.state.borrow_mut().guests.entry(guest.to_owned()).or_default().planned += boots;
    }

    /// A boot of a guest, with all that was done with it, is over.
    pub(super) fn booted(&self, guest: &str, began: Instant) {
        let mut state = self.state.borrow_mut();
        state.done += 1;
        let boots = state.guests.entry(guest.to_owned()).or_default();
        boots.done += 1;
        boots.took += began.elapsed();
    }

    /// Says what is being done now.
    pub(super) fn step(&self, what: &str) {
        let text = self.state.borrow().line(what);
        if self.voice.animated() {
            output::rewrite(text.chars().take(78).collect::<String>());
        } else {
            self.voice.note(text);
        }
    }

    /// Nothing more is to come.
    pub(super) fn end(&self) {
        if self.voice.animated() {
            output::rewrite("");
        }
    }
}

impl State {
    fn line(&self, what: &str) -> String {
        let planned: u32 = self.guests.values().map(|boots| boots.planned.max(boots.done)).sum();
        let left = match left(self.guests.values().copied()) {
            Some(left) => format!("about {} left", units::age(left)),
            None => "no estimate yet".to_owned(),
        };
        format!("boot {} of about {planned}, {left}: {what}", (self.done + 1).min(planned.max(1)))
    }
}

/// What the boots that are still to come may take, each as long as those of its guest took so far; nothing before every guest had one.
fn left(guests: impl Iterator<Item = Boots>) -> Option<Duration> {
    guests
        .map(|boots| {
            let more = boots.planned.saturating_sub(boots.done);
            if more == 0 { Some(Duration::ZERO) } else { Some(boots.took.checked_div(boots.done)? * more) }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_known_when_every_guest_was_seen() {
        let boots = |planned, done, seconds| Boots { planned, done, took: Duration::from_secs(seconds) };
        assert_eq!(left([boots(10, 2, 4), boots(3, 0, 0)].into_iter()), None);
        assert_eq!(left([boots(10, 2, 4), boots(3, 1, 20)].into_iter()), Some(Duration::from_secs(56)));
        assert_eq!(left([boots(2, 3, 9)].into_iter()), Some(Duration::ZERO));
    }

    #[test]
    fn a_line_tells_where_it_is() {
        let mut state = State::default();
        state.guests.insert("a".to_owned(), Boots { planned: 4, done: 1, took: Duration::from_secs(2) });
        state.done = 1;
        assert_eq!(state.line("a boots"), "boot 2 of about 4, about 6s left: a boots");
    }
}
