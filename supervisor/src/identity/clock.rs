//! How far a guest's clock is from this host's, asked through its agent.
//!
//! A guest's clocks go on at the pace of the host's while it runs, so the difference stays what it is until somebody changes it, and what
//! the clock is to be put forward by can be measured before the program that does it is sent.

use std::time::{Duration, SystemTime};

use ::qmp::agent::Agent;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::IdentityError;

/// How often it is asked: the quickest answer tells the most.
const QUESTIONS: usize = 2;

/// A difference of clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClockOffset {
    /// The guest's time less the host's, in microseconds.
    pub us: i64,
    /// Half of the time that the question took: the true difference is at most so much less or more.
    pub uncertain_us: u64,
}

/// Asks for the guest's time.
pub(super) async fn offset(agent: &Agent, until: Instant) -> Result<ClockOffset, IdentityError> {
    let mut best: Option<ClockOffset> = None;
    for _ in 0..QUESTIONS {
        let (before, start) = (SystemTime::now(), Instant::now());
        let left = until.saturating_duration_since(start);
        let told = agent.execute_raw("guest-get-time", json!({}), left).await?;
        let offset = between(before, start.elapsed(), &told).ok_or(IdentityError::Time)?;
        best = best.filter(|best| best.uncertain_us <= offset.uncertain_us).or(Some(offset));
    }
    best.ok_or(IdentityError::Time)
}

/// The difference, where the guest told its time (nanoseconds since 1970) some time between `before` and `took` later.
fn between(before: SystemTime, took: Duration, told: &Value) -> Option<ClockOffset> {
    let guest = i128::from(told.as_i64()?);
    let middle = before.duration_since(SystemTime::UNIX_EPOCH).ok()? + took / 2;
    let difference = guest - i128::try_from(middle.as_nanos()).ok()?;
    let us = i64::try_from(difference / 1000).ok()?;
    Some(ClockOffset { us, uncertain_us: u64::try_from(took.as_micros() / 2).unwrap_or(u64::MAX) })
}

/// Whether a clock that was put right by `before` is as right as it can be known to be, give or take a moment for the reading of clocks.
pub(super) fn is_right(before: ClockOffset, after: ClockOffset) -> bool {
    const MOMENT: u64 = 20_000;
    after.us.unsigned_abs() <= before.uncertain_us.saturating_add(after.uncertain_us).saturating_add(MOMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_told_half_way_is_right() {
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let took = Duration::from_millis(8);
        let told = |ns: i64| between(before, took, &json!(ns));
        assert_eq!(told(1_000_004_000_000), Some(ClockOffset { us: 0, uncertain_us: 4000 }));
        assert_eq!(told(0).unwrap().us, -1_000_004_000);
        assert!(told(i64::MAX).is_some() && told(i64::MIN).is_some());
        for nonsense in [json!(null), json!(1.5), json!("1"), json!({}), json!(u64::MAX)] {
            assert_eq!(between(before, took, &nonsense), None);
        }
    }

    #[test]
    fn only_what_the_measurements_allow_is_right() {
        let offset = |us, uncertain_us| ClockOffset { us, uncertain_us };
        assert!(is_right(offset(-60_000_000, 3000), offset(4000, 2000)));
        assert!(!is_right(offset(-60_000_000, 3000), offset(-60_000_000, 2000)));
        assert!(is_right(offset(i64::MIN, u64::MAX), offset(i64::MIN, 1)));
    }
}
