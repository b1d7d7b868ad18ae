//! Boots, in turns.

use super::guests::Contender;
use super::trial::Trials;
use crate::cli::exit::Failed;
use crate::compare::Results;
use crate::machine::ResolvedAccel;
use crate::vm::control::Request;

/// How long a supervisor may take to name a command line.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);
/// After so many failures in a row a guest is given up.
const ENOUGH: usize = 3;

/// Boots each guest once and then `runs` times; what counts is left to the results' readers.
pub(super) fn measure(
    trials: &Trials<'_>,
    contenders: &[Contender],
    results: &mut Results,
    runs: u32,
) -> Result<(), Failed> {
    let mut turn = 0;
    for round in 0..=runs {
        for index in order(contenders.len(), round) {
            let contender = &contenders[index];
            let failures =
                results.guests[index].boots.iter().rev().take_while(|boot| boot.failed.is_some()).count();
            if failures >= ENOUGH {
                continue;
            }
            trials.progress.step(&format!("{} boots ({round} of {runs})", contender.name));
            let mut trial = trials.boot(contender, trials.args.timeout, |_| {})?;
            if trials.interrupted().is_some() {
                // Whatever became of it was the signal's doing.
                return Ok(());
            }
            trial.boot.turn = turn;
            turn += 1;
            let guest = &mut results.guests[index];
            if guest.command_line.is_empty() {
                let said = trial.ask(&Request::CommandLine, LIMIT).ok();
                guest.command_line =
                    said.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
            }
            if let Some(run) = trial.run() {
                results.host.qemu = results.host.qemu.take().or(run.qemu_version);
                results.host.accel = results.host.accel.take().or(run.accel.map(word));
            }
            guest.boots.push(trial.boot.clone());
            if failures + 1 == ENOUGH && trial.boot.failed.is_some() && round < runs {
                results.notes.push(format!(
                    "{} failed {ENOUGH} times in a row and was not booted again; {} boots of it are missing.",
                    guest.name,
                    runs - round
                ));
            }
        }
    }
    Ok(())
}

/// As results have it.
fn word(accel: ResolvedAccel) -> String {
    match accel {
        ResolvedAccel::Kvm => "kvm",
        ResolvedAccel::Tcg => "tcg",
    }
    .to_owned()
}

/// Whose turn it is in a round: the order turns round each time, so that no guest always follows the same other.
fn order(guests: usize, round: u32) -> Vec<usize> {
    let forth = 0..guests;
    if round.is_multiple_of(2) { forth.collect() } else { forth.rev().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_take_turns() {
        assert_eq!([order(3, 0), order(3, 1), order(3, 2)], [vec![0, 1, 2], vec![2, 1, 0], vec![0, 1, 2]]);
    }
}
