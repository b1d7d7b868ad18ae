//! The least memory with which a guest becomes ready.

use std::time::Duration;

use super::guests::Contender;
use super::trial::Trials;
use crate::cli::exit::{ExitKind, Failed};
use crate::compare::Measured;
use crate::compare::results::{Guest, Least};
use crate::compare::stats::Summary;
use crate::spec::{MIN_MEMORY, Size};
use crate::vm::PhaseName;

const MIB: u64 = 1 << 20;
/// A boot that takes so many times as long as usual has not become ready.
const PATIENCE: f64 = 4.0;
/// And at least so long, as little memory makes slow.
const AT_LEAST: Duration = Duration::from_secs(5);

/// About how many boots it takes.
pub(super) fn steps(memory: Size) -> u32 {
    (memory.bytes() / MIB).max(1).ilog2()
}

/// Finds it; nothing where a signal came first.
pub(super) fn measure(
    trials: &Trials<'_>,
    contender: &Contender,
    guest: &Guest,
) -> Result<Option<Measured<Least>>, Failed> {
    let times: Vec<f64> = guest
        .boots
        .iter()
        .filter_map(|boot| boot.at(PhaseName::Ready).filter(|_| boot.failed.is_none()))
        .collect();
    let Some(usual) = Summary::of(&times) else {
        let why = "it never became ready with the memory that all guests had";
        return Ok(Some(Measured::Failed(why.to_owned())));
    };
    let within = Duration::from_secs_f64(usual.max * PATIENCE / 1000.0).max(AT_LEAST);
    let found = bisect(MIN_MEMORY.bytes().div_ceil(MIB), trials.memory().bytes() / MIB, |mib| {
        trials.progress.step(&format!("{} boots with {mib} MiB", contender.name));
        let ready = match trials.boot(contender, within, |spec| spec.memory = Size::from_mib(mib)) {
            Ok(trial) => trial.is_up(),
            // QEMU's own machines need some memory, too: it refuses to load a kernel that does not fit.
            Err(failed) if failed.kind == ExitKind::HostUnfit => false,
            Err(failed) => return Err(failed),
        };
        Ok(trials.interrupted().is_none().then_some(ready))
    })?;
    Ok(found.map(Measured::Value))
}

/// The least number from `floor` to `top` for which `try_it` holds, which it does for `top`, and for all above any for which it does.
/// Nothing when `try_it` breaks off.
fn bisect<E>(
    floor: u64,
    top: u64,
    mut try_it: impl FnMut(u64) -> Result<Option<bool>, E>,
) -> Result<Option<Least>, E> {
    let mut tried = Vec::new();
    // Everything below `low` is too little, or no VM; `high` is enough.
    let (mut low, mut high) = (floor, top);
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(ready) = try_it(middle)? else { return Ok(None) };
        tried.push((middle * MIB, ready));
        if ready {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(Some(Least { memory: high * MIB, tried, at_floor: high == floor }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(floor: u64, top: u64, least: u64) -> Least {
        bisect(floor, top, |mib| Ok::<_, ()>(Some(mib >= least))).unwrap().unwrap()
    }

    #[test]
    fn the_floor_is_told_from_a_guests_own_limit() {
        let least = found(1, 512, 1);
        assert!(least.at_floor && least.memory == MIB);
        let least = found(1, 512, 77);
        assert!(!least.at_floor && least.memory == 77 * MIB && least.tried.len() <= 9);
        assert!(bisect(1, 512, |_| Ok::<_, ()>(None)).unwrap().is_none());
        assert!(bisect(1, 512, |_| Err(())).is_err());
    }

    proptest! {
        #[test]
        fn the_least_is_found_in_few_boots(floor in 1_u64..4, more in 0_u64..2000, at in 0.0..1.0_f64) {
            let top = floor + more;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let least = floor + (more as f64 * at) as u64;
            let found = found(floor, top, least);
            prop_assert_eq!(found.memory, least * MIB);
            prop_assert!(found.tried.len() <= 11);
        }
    }
}
