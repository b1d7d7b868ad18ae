//! What changed since an earlier comparison, and whether it is more than noise.

use super::document::{Block, Unit, number, plain, show};
use super::report::{OUTSIDE, PHASES, p};
use super::results::{Guest, Measured, Results};
use super::stats::{Difference, Summary};

/// A number of a guest: its name, its unit, and all samples of it.
type Metric = (String, Unit, Vec<f64>, bool);

/// The section that tells what changed from `old` to `new`.
#[must_use]
pub fn section(old: &Results, new: &Results) -> Vec<Block> {
    let mut blocks = vec![Block::Heading(2, "Since the earlier comparison".to_owned())];
    let unlike = unlike(old, new);
    if !unlike.is_empty() {
        blocks.push(Block::Warning(format!(
            "The two were not made under the same conditions: {}. A change may come from that.",
            unlike.join("; ")
        )));
    }
    let mut found = false;
    for guest in &new.guests {
        let Some(before) = old.guests.iter().find(|other| other.name == guest.name) else {
            blocks.push(Block::Text(format!("{} is new.", guest.name)));
            continue;
        };
        found = true;
        let rows: Vec<Vec<String>> = changes(before, guest);
        blocks.push(Block::Heading(3, guest.name.clone()));
        let head = ["", "before", "now", "change", "verdict"].map(str::to_owned).to_vec();
        blocks.push(Block::Table(head, rows));
    }
    for gone in old.guests.iter().filter(|old| !new.guests.iter().any(|guest| guest.name == old.name)) {
        blocks.push(Block::Text(format!("{} is no longer compared.", gone.name)));
    }
    if found {
        blocks.push(Block::Text(
            "More than noise: the test of Mann and Whitney gives a p below 0.05. Sizes are exact, so any change of them is real. Of a number with fewer than three samples on a side, or three against three or four, nobody can tell.".to_owned(),
        ));
    }
    blocks
}

/// What was different about the conditions.
fn unlike(old: &Results, new: &Results) -> Vec<String> {
    let facts = |r: &Results| {
        [
            ("CPU", format!("{:?} × {}", r.host.cpu, r.host.cpus)),
            ("kernel", r.host.kernel.clone()),
            ("QEMU", format!("{:?}", r.host.qemu)),
            ("acceleration", format!("{:?}", r.host.accel)),
            ("guest memory", r.settings.memory.to_string()),
            ("page cache", if r.settings.cold { "cold" } else { "warm" }.to_owned()),
            ("network", r.settings.net.clone()),
            ("sign of readiness", format!("{:?}", r.settings.until)),
        ]
    };
    facts(old)
        .into_iter()
        .zip(facts(new))
        .filter(|(a, b)| a != b)
        .map(|((name, _), _)| name.to_owned())
        .collect()
}

fn changes(before: &Guest, now: &Guest) -> Vec<Vec<String>> {
    let (old, new) = (metrics(before), metrics(now));
    let pairs = new.iter().filter_map(|n| Some((old.iter().find(|o| o.0 == n.0)?, n)));
    pairs
        .filter_map(|((name, unit, a, exact), (.., b, _))| {
            let (before, now) = (Summary::of(a)?.median, Summary::of(b)?.median);
            let verdict = match (exact, Difference::between(a, b)) {
                (true, _) if before.total_cmp(&now).is_eq() => "the same".to_owned(),
                (true, _) => "changed".to_owned(),
                (false, None) => "too few samples to tell".to_owned(),
                (false, Some(d)) if d.is_real() => format!("more than noise (p {})", p(d.p)),
                (false, Some(d)) => format!("no more than noise (p {})", p(d.p)),
            };
            let percent = if before == 0.0 {
                String::new()
            } else {
                format!(" ({:+.1} %)", (now / before - 1.0) * 100.0)
            };
            let sign = if now > before { "+" } else { "" };
            let change = format!("{sign}{}{percent}", show(now - before, *unit));
            Some(vec![name.clone(), show(before, *unit), show(now, *unit), change, verdict])
        })
        .collect()
}

/// Everything that can be compared; the last field tells whether it is exact.
fn metrics(guest: &Guest) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for (phase, name) in PHASES {
        metrics.push((name.to_owned(), Unit::Ms, guest.times(phase), false));
    }
    if let Some(size) = guest.size.as_ref().and_then(Measured::value) {
        for file in &size.files {
            metrics.push((format!("{}, file", file.role), Unit::Bytes, vec![number(file.length)], true));
        }
        metrics.push(("what travels".to_owned(), Unit::Bytes, vec![number(size.travels())], true));
    }
    for (name, of) in OUTSIDE {
        let at_ready = guest.counted().filter_map(|boot| of(boot.memory.as_ref()?)).map(number).collect();
        metrics.push((format!("{name}, at ready"), Unit::Bytes, at_ready, false));
        let idle = guest.idle.as_ref().and_then(Measured::value).and_then(of);
        metrics.push((
            format!("{name}, at idle"),
            Unit::Bytes,
            idle.map(number).into_iter().collect(),
            false,
        ));
    }
    let least = guest.least.as_ref().and_then(Measured::value);
    metrics.push((
        "least RAM to become ready".to_owned(),
        Unit::Bytes,
        least.map(|l| number(l.memory)).into_iter().collect(),
        false,
    ));
    if let Some(work) = &guest.workload {
        for http in work.http.iter().filter_map(Measured::value) {
            metrics.push((
                format!("answers at {} connections", http.connections),
                Unit::PerSecond,
                http.rates(),
                false,
            ));
        }
        let ping = work.ping.as_ref().and_then(Measured::value).cloned().unwrap_or_default();
        metrics.push(("ping".to_owned(), Unit::Ms, ping, false));
    }
    metrics
}

/// For the terminal: what changed by more than noise.
#[must_use]
pub fn short(old: &Results, new: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    for guest in &new.guests {
        let Some(before) = old.guests.iter().find(|other| other.name == guest.name) else { continue };
        for row in changes(before, guest) {
            if row[4].starts_with("more") || row[4] == "changed" {
                lines.push(format!(
                    "{}, {}: {} → {} {}, {}",
                    guest.name, row[0], row[1], row[2], row[3], row[4]
                ));
            }
        }
    }
    if lines.is_empty() {
        lines.push(format!(
            "nothing changed by more than noise in {} guests",
            plain(number(new.guests.len() as u64))
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::markdown;
    use super::super::results::tests::sample;
    use super::*;

    #[test]
    fn the_same_results_have_not_changed() {
        let results = sample();
        let text = markdown::write(&section(&results, &results));
        assert!(
            !text.contains("| more than noise")
                && text.contains("no more than noise")
                && text.contains("the same"),
            "{text}"
        );
        assert!(short(&results, &results)[0].starts_with("nothing changed"));
    }

    #[test]
    fn a_real_change_is_told_from_noise_and_other_conditions_are_named() {
        let (old, mut new) = (sample(), sample());
        new.settings.cold = true;
        for boot in &mut new.guests[0].boots {
            for phase in &mut boot.phases {
                phase.ms *= 1.5;
            }
        }
        if let Some(Measured::Value(size)) = &mut new.guests[0].size {
            size.files[0].length += 1;
        }
        new.guests.push(Guest { name: "third".to_owned(), ..new.guests[0].clone() });
        let text = markdown::write(&section(&old, &new));
        assert!(text.contains("same conditions: page cache"), "{text}");
        assert!(
            text.contains("| ready | 102 ms | 154 ms | +51.2 ms (+50.0 %) | more than noise (p = 0.0286) |"),
            "{text}"
        );
        assert!(
            text.contains("third is new") && text.contains("+1 B") && text.contains("| changed |"),
            "{text}"
        );
        assert!(short(&old, &new).iter().any(|line| line.starts_with("hello, ready:")));
    }
}
