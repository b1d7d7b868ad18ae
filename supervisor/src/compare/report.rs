//! From results to a report. Every number in it comes from there.

use super::document::{Block, Chart, Unit, bytes, ms, number, plain, show};
use super::results::{Guest, Measured, Memory, Ports, Results, Section};
use super::stats::{Difference, Summary};
use super::surface::FACTS;
use crate::vm::PhaseName;

/// What a cell says where nothing was measured.
const NONE: &str = "–";

/// The phases of a boot in their usual order, with what a reader calls them.
pub(super) const PHASES: [(PhaseName, &str); 8] = [
    (PhaseName::Spawned, "QEMU spawned"),
    (PhaseName::Monitor, "monitor up"),
    (PhaseName::Resumed, "first guest instruction"),
    (PhaseName::Serial, "first serial byte"),
    (PhaseName::Kernel, "kernel speaks"),
    (PhaseName::Userspace, "kernel done, user space"),
    (PhaseName::Network, "address known"),
    (PhaseName::Ready, "ready"),
];

/// The report's title.
#[must_use]
pub fn title(results: &Results) -> String {
    format!("Side by side: {}", names(results).join(" and "))
}

/// The whole report.
#[must_use]
pub fn document(results: &Results) -> Vec<Block> {
    let mut blocks = vec![Block::Heading(1, title(results))];
    if results.partial {
        let text =
            "This comparison was cut short. What is here was measured; what is missing was still to come.";
        blocks.push(Block::Warning(text.to_owned()));
    }
    summary(results, &mut blocks);
    machine(results, &mut blocks);
    let wanted = |section| results.settings.only.contains(&section);
    if wanted(Section::Size) {
        size(results, &mut blocks);
    }
    boot(results, wanted(Section::Boot), &mut blocks);
    if wanted(Section::Memory) {
        memory(results, &mut blocks);
    }
    if wanted(Section::Surface) {
        surface(results, &mut blocks);
    }
    if wanted(Section::Workload) {
        workload(results, &mut blocks);
    }
    flags(results, &mut blocks);
    method(results, &mut blocks);
    blocks
}

pub(super) fn names(results: &Results) -> Vec<String> {
    results.guests.iter().map(|guest| guest.name.clone()).collect()
}

fn head(results: &Results, first: &str) -> Vec<String> {
    [first.to_owned()].into_iter().chain(names(results)).collect()
}

/// The lines that a hurried reader takes away.
fn summary(results: &Results, blocks: &mut Vec<Block>) {
    let mut items = Vec::new();
    if let [first, others @ ..] = &results.guests[..] {
        let ours = first.times(PhaseName::Ready);
        for other in others {
            let theirs = other.times(PhaseName::Ready);
            items.extend(times_differ(&first.name, &ours, &other.name, &theirs, "is ready"));
        }
    }
    for (what, of) in [
        (
            "What travels",
            (|guest: &Guest| Some(guest.size.as_ref()?.value()?.travels())) as fn(&Guest) -> Option<u64>,
        ),
        ("RAM that holds something, at idle", |guest| guest.idle.as_ref()?.value()?.nonzero),
        ("The least RAM to become ready", |guest| Some(guest.least.as_ref()?.value()?.memory)),
    ] {
        let parts: Vec<String> = results
            .guests
            .iter()
            .filter_map(|guest| Some(format!("{} {}", guest.name, bytes(number(of(guest)?)))))
            .collect();
        if !parts.is_empty() {
            items.push(format!("{what}: {}.", parts.join(", ")));
        }
    }
    let failed: usize = results.guests.iter().map(|guest| guest.failures().count()).sum();
    if failed > 0 {
        items.push(format!("{failed} boots failed; they are listed below and count in no time."));
    }
    if !items.is_empty() {
        blocks.push(Block::List(items));
    }
}

/// Whether two guests' times differ, in a sentence; nothing where one has none.
fn times_differ(first: &str, ours: &[f64], second: &str, theirs: &[f64], what: &str) -> Option<String> {
    let (a, b) = (Summary::of(ours)?, Summary::of(theirs)?);
    let both = format!("{first} {what} after {}, {second} after {} (medians)", ms(a.median), ms(b.median));
    Some(match Difference::between(ours, theirs) {
        None => format!("{both}; too few boots to tell whether that is more than noise."),
        Some(difference) if difference.is_real() => {
            let (low, high) = difference.interval;
            let ratio = match b.median / a.median {
                ratio if ratio >= 1.0 => format!("{} times as long", plain(ratio)),
                ratio => format!("{} times as fast", plain(1.0 / ratio)),
            };
            format!(
                "{both}: {ratio}; the difference is {} (95 % interval {} to {}, p {}).",
                ms(difference.of_medians),
                ms(low),
                ms(high),
                p(difference.p)
            )
        }
        Some(difference) => {
            format!("{both}. They do not differ by more than noise (p {}).", p(difference.p))
        }
    })
}

pub(super) fn p(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".to_owned() } else { format!("= {p:.4}") }
}

fn machine(results: &Results, blocks: &mut Vec<Block>) {
    let (host, settings) = (&results.host, &results.settings);
    blocks.push(Block::Heading(2, "The machine, and what was asked for".to_owned()));
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let accel = match host.accel.as_deref() {
        Some("tcg") => "TCG: QEMU emulated the guests' instructions, so every time is far longer than on KVM, and not in proportion".to_owned(),
        Some("kvm") => "KVM: the CPU ran the guests' instructions".to_owned(),
        _ => "unknown".to_owned(),
    };
    let cache = if settings.cold {
        "cold: kernel, initrd and disk of the guest were dropped from the page cache before each boot (posix_fadvise, DONTNEED); QEMU itself and its firmware stayed"
    } else {
        "warm: nothing was dropped from it"
    };
    let rows = [
        ("CPU", format!("{}, {} cores", or_unknown(&host.cpu), host.cpus)),
        ("memory", format!("{}, pages of {} B", bytes(number(host.memory)), host.page_size)),
        (
            "kernel",
            match &host.distribution {
                Some(name) => format!("{}, {name}", host.kernel),
                None => host.kernel.clone(),
            },
        ),
        ("QEMU", or_unknown(&host.qemu)),
        ("acceleration", accel),
        ("guest memory", bytes(number(settings.memory))),
        ("network", settings.net.clone()),
        (
            "ready means",
            settings.until.clone().unwrap_or_else(|| {
                let own = results.guests.iter().map(|g| {
                    format!("{}: {}", g.name, g.ready.as_deref().unwrap_or("its first instruction"))
                });
                own.collect::<Vec<_>>().join("; ")
            }),
        ),
        ("page cache", cache.to_owned()),
        (
            "boots",
            format!(
                "{} of each guest, which took turns; one more of each came first and is not counted",
                settings.runs
            ),
        ),
        ("when", format!("{} to {}", time(results.started), time(results.ended))),
        ("midge", results.midge.clone()),
    ];
    blocks.push(Block::Facts(rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()));
    let guests = results.guests.iter().map(|guest| {
        let digest = guest.digest.as_ref().map(|digest| format!(", {digest}")).unwrap_or_default();
        format!("{}: {}, {} for {}{digest}", guest.name, guest.what, guest.kind, guest.arch)
    });
    blocks.push(Block::List(guests.collect()));
    if let Some(load) = host.load.filter(|load| *load > f64::from(host.cpus) / 2.0) {
        blocks.push(Block::Warning(format!(
            "The machine was not at rest: its load average was {} in the minute before. Times are longer and further apart than they would be.",
            plain(load)
        )));
    }
    results.notes.iter().for_each(|note| blocks.push(Block::Warning(note.clone())));
}

fn time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// The reasons for missing values, each once for each guest.
fn reasons<'a>(entries: impl Iterator<Item = (&'a Guest, &'a str, &'a str)>, blocks: &mut Vec<Block>) {
    let mut groups: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for (guest, what, why) in entries {
        match groups.iter_mut().find(|(name, reason, _)| *name == guest.name && *reason == why) {
            Some((.., list)) => list.push(what),
            None => groups.push((&guest.name, why, vec![what])),
        }
    }
    if !groups.is_empty() {
        let items = groups.iter().map(|(guest, why, what)| format!("{guest}, {}: {why}", what.join(", ")));
        blocks.push(Block::List(items.collect()));
    }
}

fn size(results: &Results, blocks: &mut Vec<Block>) {
    blocks.push(Block::Heading(2, "Image size".to_owned()));
    blocks.push(Block::Text(
        "Packed is zstd, level 3, of each file by itself (a sparse file's holes are zeros to it). What travels to another machine is every file, packed, but those that midge makes there.".to_owned(),
    ));
    let sizes: Vec<_> =
        results.guests.iter().map(|guest| guest.size.as_ref().and_then(Measured::value)).collect();
    let row = |name: &str, of: &dyn Fn(&super::results::Size) -> Option<u64>| {
        let cells = sizes.iter().map(|size| size.and_then(of).map_or(NONE.to_owned(), |n| bytes(number(n))));
        [name.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    for role in ["kernel", "initrd", "disk"] {
        let file = |size: &super::results::Size| size.files.iter().find(|file| file.role == role).cloned();
        if !sizes.iter().flatten().any(|size| file(size).is_some()) {
            continue;
        }
        rows.push(row(&format!("{role}, file"), &|size| Some(file(size)?.length)));
        if role == "disk" {
            rows.push(row("disk, as the guest sees it", &|size| file(size)?.virtual_size));
        }
        rows.push(row(&format!("{role}, allocated"), &|size| Some(file(size)?.allocated)));
        rows.push(row(&format!("{role}, packed"), &|size| Some(file(size)?.compressed)));
    }
    rows.push(row("all files, allocated", &|size| Some(size.sum(|file| file.allocated))));
    rows.push(row("what travels", &|size| Some(size.travels())));
    blocks.push(Block::Table(head(results, ""), rows));
    blocks.push(dots(
        results,
        "What travels, packed",
        Unit::Bytes,
        &[("what travels", &|guest| {
            guest
                .size
                .as_ref()
                .and_then(Measured::value)
                .map(|size| vec![number(size.travels())])
                .unwrap_or_default()
        })],
    ));
    let made = results.guests.iter().filter(|guest| {
        guest
            .size
            .as_ref()
            .and_then(Measured::value)
            .is_some_and(|size| size.files.iter().any(|file| file.made_here))
    });
    let made = made.map(|guest| {
        (
            guest,
            "initrd",
            "the small initial RAM disk that midge makes from the image's own modules; it does not travel",
        )
    });
    let missing =
        results.guests.iter().filter_map(|guest| Some((guest, "size", guest.size.as_ref()?.why()?)));
    reasons(made.chain(missing), blocks);
}

type Numbers<'a> = &'a dyn Fn(&Guest) -> Vec<f64>;

fn dots(results: &Results, title: &str, unit: Unit, rows: &[(&str, Numbers<'_>)]) -> Block {
    let rows = rows.iter().map(|(name, of)| ((*name).to_owned(), results.guests.iter().map(of).collect()));
    Block::Chart(Chart::Dots { title: title.to_owned(), unit, guests: names(results), rows: rows.collect() })
}

fn boot(results: &Results, wanted: bool, blocks: &mut Vec<Block>) {
    if wanted {
        blocks.push(Block::Heading(2, "Boot time".to_owned()));
        blocks.push(Block::Text(
            "Milliseconds since midge began to spawn QEMU, as the VM's supervisor recorded them. The first boot of each guest is not counted. The interval is the 95 % bootstrap of the median."
                .to_owned(),
        ));
        blocks.push(dots(
            results,
            "Time to ready, each boot a dot, the line the median",
            Unit::Ms,
            &[("ready", &|guest| guest.times(PhaseName::Ready))],
        ));
        let summaries: Vec<_> =
            results.guests.iter().map(|guest| Summary::of(&guest.times(PhaseName::Ready))).collect();
        let row = |name: &str, of: &dyn Fn(&Summary) -> String| {
            let cells = summaries.iter().map(|s| s.as_ref().map_or(NONE.to_owned(), of));
            [name.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
        };
        let first = results.guests.iter().map(|guest| {
            let first = guest.boots.first().filter(|boot| boot.failed.is_none());
            first.and_then(|boot| boot.at(PhaseName::Ready)).map_or(NONE.to_owned(), ms)
        });
        let rows = vec![
            row("boots counted", &|s| s.count.to_string()),
            row("mean", &|s| ms(s.mean)),
            row("standard deviation", &|s| s.deviation.map_or(NONE.to_owned(), ms)),
            row("median", &|s| ms(s.median)),
            row("95 % interval of the median", &|s| {
                s.interval.map_or(NONE.to_owned(), |(a, b)| format!("{} to {}", ms(a), ms(b)))
            }),
            row("95th percentile", &|s| ms(s.p95)),
            row("least", &|s| ms(s.min)),
            row("most", &|s| ms(s.max)),
            ["the first boot, not counted".to_owned()].into_iter().chain(first).collect(),
        ];
        blocks.push(Block::Table(head(results, "time to ready"), rows));
        pairs(results, blocks);
        phases(results, blocks);
        systemd(results, blocks);
    }
    failures(results, blocks);
}

/// Every two guests: whether they differ.
fn pairs(results: &Results, blocks: &mut Vec<Block>) {
    let mut items = Vec::new();
    for (index, first) in results.guests.iter().enumerate() {
        for second in &results.guests[index + 1..] {
            let (a, b) = (first.times(PhaseName::Ready), second.times(PhaseName::Ready));
            items.extend(times_differ(&first.name, &a, &second.name, &b, "is ready"));
        }
    }
    if !items.is_empty() {
        blocks.push(Block::List(items));
    }
}

fn phases(results: &Results, blocks: &mut Vec<Block>) {
    blocks.push(Block::Heading(3, "Phases".to_owned()));
    let cell = |guest: &Guest, phase| match Summary::of(&guest.times(phase)) {
        None => NONE.to_owned(),
        Some(s) => match s.deviation {
            Some(deviation) => format!("{} ± {}", ms(s.median), ms(deviation)),
            None => ms(s.median),
        },
    };
    let rows = PHASES.iter().map(|(phase, name)| {
        let cells = results.guests.iter().map(|guest| cell(guest, *phase));
        [(*name).to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
    });
    let rows = rows.filter(|row| row[1..].iter().any(|cell| cell != NONE)).collect();
    blocks.push(Block::Text(
        "Median, and standard deviation. A phase that a guest's console or network does not show has no number. An agent that is up may be heard of before the address.".to_owned(),
    ));
    blocks.push(Block::Table(head(results, "reached after"), rows));
    let bars = results.guests.iter().filter_map(|guest| {
        let reached = PHASES
            .iter()
            .filter_map(|(phase, name)| Some((*name, Summary::of(&guest.times(*phase))?.median)));
        let mut reached: Vec<_> = reached.collect();
        // What comes after ready is no part of the way there.
        let ready = guest.times(PhaseName::Ready);
        let end = Summary::of(&ready)?.median;
        reached.retain(|(_, at)| *at <= end);
        reached.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut before = 0.0;
        let parts = reached.into_iter().map(|(name, at)| {
            let part = (format!("until {name}"), at - before);
            before = at;
            part
        });
        Some((guest.name.clone(), parts.collect()))
    });
    let bars: Vec<_> = bars.collect();
    if !bars.is_empty() {
        let title = "Where the time goes, each guest's own boot as a whole".to_owned();
        blocks.push(Block::Chart(Chart::Shares { title, unit: Unit::Ms, bars }));
    }
}

fn systemd(results: &Results, blocks: &mut Vec<Block>) {
    let with: Vec<_> =
        results.guests.iter().filter_map(|guest| Some((guest, guest.systemd.as_ref()?))).collect();
    for (guest, said) in &with {
        let Some(said) = said.value() else { continue };
        blocks.push(Block::Heading(3, format!("systemd-analyze in {}", guest.name)));
        let parts = [("kernel", said.kernel), ("initrd", said.initrd), ("user space", said.userspace)];
        let parts = parts.iter().filter_map(|(name, time)| Some(format!("{name} {}", ms((*time)?))));
        blocks.push(Block::Text(format!(
            "By the guest's own clock, in one boot: {}.",
            parts.collect::<Vec<_>>().join(", ")
        )));
        let rows = said.slowest.iter().map(|(unit, time)| vec![unit.clone(), ms(*time)]).collect();
        blocks.push(Block::Table(vec!["slowest units".to_owned(), "time".to_owned()], rows));
    }
    reasons(with.iter().filter_map(|(guest, said)| Some((*guest, "systemd-analyze", said.why()?))), blocks);
}

fn failures(results: &Results, blocks: &mut Vec<Block>) {
    let failed: Vec<_> =
        results.guests.iter().flat_map(|guest| guest.failures().map(move |f| (guest, f))).collect();
    if failed.is_empty() {
        return;
    }
    blocks.push(Block::Heading(3, "Boots that failed".to_owned()));
    for (guest, (index, boot)) in failed {
        let why = boot.failed.as_deref().unwrap_or_default();
        let last = boot
            .phases
            .last()
            .map_or("nothing".to_owned(), |phase| format!("{} after {}", phase.name, ms(phase.ms)));
        blocks.push(Block::Text(format!("{}, boot {index}: {why} (reached: {last})", guest.name)));
        if !boot.console.is_empty() {
            blocks.push(Block::Code(boot.console.join("\n")));
        }
    }
}

/// A scan of ports, with its name.
type Scan = (&'static str, fn(&Guest) -> Option<&Measured<Ports>>);
/// What a cell says of requests.
type Cell = fn(&super::results::Http) -> String;
/// A part of [`Memory`], with its name.
type Part = (&'static str, fn(&Memory) -> Option<u64>);

/// The parts of [`Memory`] that are measured from outside.
pub(super) const OUTSIDE: [Part; 5] = [
    ("guest RAM touched", |m| m.touched),
    ("of it, not zero", |m| m.nonzero),
    ("of it, equal to another page", |m| m.equal),
    ("QEMU's own private memory", |m| m.private),
    ("QEMU's PSS, guest RAM included", |m| m.pss),
];

fn memory(results: &Results, blocks: &mut Vec<Block>) {
    blocks.push(Block::Heading(2, "Memory".to_owned()));
    blocks.push(Block::Text(
        "From outside, the same way for every guest: the pages of its RAM file, and what the host's kernel says of QEMU (smaps). At idle is some seconds after ready, when systemd says that it has started everything; under load is during requests over 64 connections."
            .to_owned(),
    ));
    for (name, of) in [
        ("At idle", (|guest: &Guest| guest.idle.as_ref()) as fn(&Guest) -> Option<&Measured<Memory>>),
        ("Under load", |guest| guest.loaded.as_ref()),
    ] {
        blocks.push(Block::Heading(3, name.to_owned()));
        let value = |guest: &Guest, part: fn(&Memory) -> Option<u64>| {
            of(guest).and_then(Measured::value).and_then(part).map_or(NONE.to_owned(), |n| bytes(number(n)))
        };
        let mut rows: Vec<Vec<String>> = OUTSIDE
            .iter()
            .map(|(name, part)| {
                let cells = results.guests.iter().map(|guest| value(guest, *part));
                [(*name).to_owned()].into_iter().chain(cells).collect()
            })
            .collect();
        for key in ["MemTotal", "MemFree", "MemAvailable", "Cached", "Slab"] {
            let cells = results.guests.iter().map(|guest| {
                let known = of(guest).and_then(Measured::value).and_then(|memory| memory.meminfo.get(key));
                known.map_or(NONE.to_owned(), |n| bytes(number(*n)))
            });
            let row: Vec<String> = [format!("the guest's {key}")].into_iter().chain(cells).collect();
            if row[1..].iter().any(|cell| cell != NONE) {
                rows.push(row);
            }
        }
        blocks.push(Block::Table(head(results, ""), rows));
        reasons(results.guests.iter().filter_map(|guest| Some((guest, name, of(guest)?.why()?))), blocks);
    }
    let idle = |part: fn(&Memory) -> Option<u64>| {
        move |guest: &Guest| {
            let value = guest.idle.as_ref().and_then(Measured::value).and_then(part);
            value.map(|n| vec![number(n)]).unwrap_or_default()
        }
    };
    let (touched, nonzero, private) = (idle(OUTSIDE[0].1), idle(OUTSIDE[1].1), idle(OUTSIDE[3].1));
    let least = |guest: &Guest| {
        let value = guest.least.as_ref().and_then(Measured::value);
        value.map(|least| vec![number(least.memory)]).unwrap_or_default()
    };
    blocks.push(dots(
        results,
        "Memory at idle, and the least that is enough",
        Unit::Bytes,
        &[
            ("RAM touched", &touched),
            ("RAM not zero", &nonzero),
            ("QEMU's own private memory", &private),
            ("least RAM to become ready", &least),
        ],
    ));
    blocks.push(Block::Heading(3, "The least RAM to become ready".to_owned()));
    let items = results.guests.iter().filter_map(|guest| {
        let least = guest.least.as_ref()?.value()?;
        let tried: Vec<String> = least
            .tried
            .iter()
            .map(|(size, ready)| format!("{} {}", bytes(number(*size)), if *ready { "yes" } else { "no" }))
            .collect();
        let floor = if least.at_floor { " (no smaller VM can be made)" } else { "" };
        Some(format!("{}: {}{floor}. Tried: {}.", guest.name, bytes(number(least.memory)), tried.join(", ")))
    });
    blocks.push(Block::List(items.collect()));
    blocks.push(Block::Text(
        "Found by halving to 1 MiB, which takes for granted that a guest which is ready with some memory is ready with more. A boot that takes four times as long as its usual one, and at least five seconds, counts as not ready.".to_owned(),
    ));
    reasons(
        results.guests.iter().filter_map(|guest| Some((guest, "least RAM", guest.least.as_ref()?.why()?))),
        blocks,
    );
}

fn surface(results: &Results, blocks: &mut Vec<Block>) {
    blocks.push(Block::Heading(2, "Attack surface".to_owned()));
    blocks.push(Block::Text(
        "Zero was measured as zero. Where a question makes no sense for a guest, or could not be asked, it says so and why.".to_owned(),
    ));
    let mut rows = Vec::new();
    let mut missing = Vec::new();
    for (key, name) in FACTS {
        let mut row = vec![name.to_owned()];
        for guest in &results.guests {
            let fact = guest.surface.as_ref().and_then(|surface| surface.facts.get(key));
            row.push(match fact {
                Some(Measured::Value(fact)) => match fact.count {
                    Some(count) => count.to_string(),
                    None => fact.items.join(", "),
                },
                Some(Measured::NotApplicable(_)) => "does not apply".to_owned(),
                Some(Measured::Failed(_)) => "failed".to_owned(),
                None => NONE.to_owned(),
            });
            missing.extend(fact.and_then(Measured::why).map(|why| (guest, name, why)));
        }
        if row[1..].iter().any(|cell| cell != NONE) {
            rows.push(row);
        }
    }
    let scans: [Scan; 2] = [
        ("open TCP ports", |guest| guest.surface.as_ref()?.tcp.as_ref()),
        ("UDP ports that answer", |guest| guest.surface.as_ref()?.udp.as_ref()),
    ];
    for (name, of) in scans {
        let mut row = vec![name.to_owned()];
        for guest in &results.guests {
            row.push(match of(guest) {
                Some(Measured::Value(ports)) => open(ports),
                Some(Measured::NotApplicable(_)) => "does not apply".to_owned(),
                Some(Measured::Failed(_)) => "failed".to_owned(),
                None => NONE.to_owned(),
            });
            missing.extend(of(guest).and_then(Measured::why).map(|why| (guest, name, why)));
        }
        if row[1..].iter().any(|cell| cell != NONE) {
            rows.push(row);
        }
    }
    blocks.push(Block::Table(head(results, ""), rows));
    let counted = results.guests.iter().filter_map(|guest| Some((guest, guest.surface.as_ref()?)));
    let details = counted.flat_map(|(guest, surface)| {
        FACTS.iter().filter_map(move |(key, name)| {
            let fact = surface.facts.get(*key)?.value()?;
            let count = fact.count.filter(|_| !fact.items.is_empty())?;
            let more = if number(count) > number(fact.items.len() as u64) { ", …" } else { "" };
            Some(format!("{}, {name}: {}{more}", guest.name, fact.items.join(", ")))
        })
    });
    let details: Vec<String> = details.collect();
    if !details.is_empty() {
        blocks.push(Block::List(details));
    }
    reasons(missing.into_iter(), blocks);
}

fn open(ports: &Ports) -> String {
    let list: Vec<String> = ports.open.iter().map(u16::to_string).collect();
    let list = if list.is_empty() { String::new() } else { format!(" ({})", list.join(", ")) };
    let silent = if ports.silent > 0 { format!(", {} silent", ports.silent) } else { String::new() };
    format!("{}{list} of {}{silent}", ports.open.len(), ports.tried)
}

fn workload(results: &Results, blocks: &mut Vec<Block>) {
    blocks.push(Block::Heading(2, "Workload".to_owned()));
    blocks.push(Block::Text(format!(
        "HTTP requests from one and the same client on the host, for {} s at each number of connections, a new connection for each request.",
        plain(results.settings.load_seconds)
    )));
    let with = |guest: &Guest| guest.workload.clone().unwrap_or_default();
    let facts = results.guests.iter().map(|guest| {
        let work = with(guest);
        let server = work.server.as_deref().unwrap_or("nothing answers");
        let path = work.path.as_deref().map(|path| format!("; {path}")).unwrap_or_default();
        format!("{}: {server}{path}", guest.name)
    });
    blocks.push(Block::List(facts.collect()));
    let mut levels: Vec<u32> = results
        .guests
        .iter()
        .flat_map(|guest| with(guest).http)
        .filter_map(|http| http.value().map(|http| http.connections))
        .collect();
    levels.sort_unstable();
    levels.dedup();
    let mut rows = Vec::new();
    for level in &levels {
        let http = |guest: &Guest| {
            with(guest)
                .http
                .iter()
                .filter_map(Measured::value)
                .find(|http| http.connections == *level)
                .cloned()
        };
        let cells: [(&str, Cell); 6] = [
            ("answers per second", |h| plain(number(h.total()) / h.seconds)),
            ("body bytes per second", |h| bytes(number(h.total() * h.body) / h.seconds)),
            ("latency, median", |h| h.p50.map_or(NONE.to_owned(), ms)),
            ("latency, 99th percentile", |h| h.p99.map_or(NONE.to_owned(), ms)),
            ("requests without an answer", |h| h.errors.to_string()),
            ("body of an answer", |h| format!("{} B", h.body)),
        ];
        for (name, cell) in cells {
            let values = results.guests.iter().map(|guest| http(guest).map_or(NONE.to_owned(), |h| cell(&h)));
            rows.push([format!("{level}: {name}")].into_iter().chain(values).collect());
        }
    }
    let pings = results.guests.iter().map(|guest| {
        let ping = with(guest).ping.and_then(|ping| Summary::of(ping.value()?));
        ping.map_or(NONE.to_owned(), |s| format!("{} (p95 {}, {} pings)", ms(s.median), ms(s.p95), s.count))
    });
    rows.push(["ping, median".to_owned()].into_iter().chain(pings).collect());
    let loops = results.guests.iter().map(|guest| {
        let cpu = with(guest).cpu.and_then(|cpu| Summary::of(cpu.value()?));
        cpu.map_or(NONE.to_owned(), |s| ms(s.median * 1000.0))
    });
    rows.push(["CPU loop, median".to_owned()].into_iter().chain(loops).collect());
    blocks.push(Block::Table(head(results, "connections"), rows));
    let rates: Vec<(String, Vec<Vec<f64>>)> = levels
        .iter()
        .map(|level| {
            let of = |guest: &Guest| {
                let found = with(guest)
                    .http
                    .iter()
                    .filter_map(Measured::value)
                    .find(|h| h.connections == *level)
                    .cloned();
                found.map(|http| http.rates()).unwrap_or_default()
            };
            (format!("{level} connections"), results.guests.iter().map(of).collect())
        })
        .collect();
    let title = "Answers per second, each dot a tenth of the time".to_owned();
    blocks.push(Block::Chart(Chart::Dots {
        title,
        unit: Unit::PerSecond,
        guests: names(results),
        rows: rates,
    }));
    let mut missing = Vec::new();
    let works: Vec<_> =
        results.guests.iter().filter_map(|guest| Some((guest, guest.workload.as_ref()?))).collect();
    for (guest, work) in works {
        missing.extend(work.http.iter().filter_map(Measured::why).map(|why| (guest, "HTTP", why)));
        missing.extend(work.ping.as_ref().and_then(Measured::why).map(|why| (guest, "ping", why)));
        missing.extend(work.cpu.as_ref().and_then(Measured::why).map(|why| (guest, "CPU loop", why)));
    }
    missing.dedup();
    reasons(missing.into_iter(), blocks);
}

/// The proof that the flags were the same.
fn flags(results: &Results, blocks: &mut Vec<Block>) {
    blocks.push(Block::Heading(2, "The same flags".to_owned()));
    blocks.push(Block::Text(
        "QEMU's command lines of the counted boots, and all in which they differ: what is booted, and names and numbers that belong to one VM."
            .to_owned(),
    ));
    if let Some((first, others)) = results.guests.split_first() {
        for other in others {
            blocks.push(Block::Heading(3, format!("{} against {}", first.name, other.name)));
            if first.command_line.is_empty() || other.command_line.is_empty() {
                blocks.push(Block::Text("One of them was never started.".to_owned()));
                continue;
            }
            let side = |text: &Option<String>| text.clone().unwrap_or_else(|| "(none)".to_owned());
            let rows: Vec<Vec<String>> = results
                .differences(other)
                .iter()
                .map(|d| {
                    let words = [Some(&d.option), d.part.as_ref(), d.property.as_ref()];
                    let name = words.into_iter().flatten().cloned().collect::<Vec<_>>().join(" ");
                    vec![name, side(&d.left), side(&d.right)]
                })
                .collect();
            let same = first.command_line.len().saturating_sub(1);
            blocks.push(Block::Text(format!(
                "{} words on the first command line; {} differences.",
                same,
                rows.len()
            )));
            if !rows.is_empty() {
                blocks.push(Block::Table(vec![String::new(), first.name.clone(), other.name.clone()], rows));
            }
        }
    }
    for guest in results.guests.iter().filter(|guest| !guest.command_line.is_empty()) {
        blocks.push(Block::Heading(3, format!("Command line of {}", guest.name)));
        blocks.push(Block::Code(command_line(&guest.command_line)));
    }
}

/// An option with its value a line.
#[must_use]
pub fn command_line(words: &[String]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            text.push_str(if word.starts_with('-') && word.len() > 1 { "\n  " } else { " " });
        }
        text.push_str(word);
    }
    text
}

fn method(_results: &Results, blocks: &mut Vec<Block>) {
    blocks.push(Block::Heading(2, "How it was measured".to_owned()));
    blocks.push(Block::List(
        [
            "Each boot is of a fresh VM, made and removed for it, so every boot is a first one. Guests take turns, in an order that turns round after each round.",
            "A boot counts when the guest became ready and still ran half a second later. All others are listed as failed and count in no time.",
            "Two samples are said to differ where the test of Mann and Whitney gives a p below 0.05: it compares ranks, so neither skew nor an outlier moves it. The intervals are percentile bootstraps of 10000 draws with a fixed seed. With several pairs, one in twenty may be said to differ by chance.",
            "Every number here is made from results.json, which has all samples; `midge compare --from results.json` makes this report again.",
        ]
        .map(str::to_owned)
        .to_vec(),
    ));
}

/// The numbers of one line of a table, for the terminal: median time to ready, and what it is made of.
#[must_use]
pub fn short(guest: &Guest) -> [String; 6] {
    let ready = Summary::of(&guest.times(PhaseName::Ready));
    let value = |n: Option<u64>| n.map_or_else(String::new, |n| bytes(number(n)));
    let rate = guest.workload.as_ref().and_then(|work| {
        work.http
            .iter()
            .filter_map(Measured::value)
            .map(|http| number(http.total()) / http.seconds)
            .reduce(f64::max)
    });
    [
        ready.map_or_else(String::new, |s| ms(s.median)),
        ready.and_then(|s| s.deviation).map_or_else(String::new, ms),
        value(guest.size.as_ref().and_then(Measured::value).map(super::results::Size::travels)),
        value(guest.idle.as_ref().and_then(Measured::value).and_then(|m| m.nonzero)),
        value(guest.least.as_ref().and_then(Measured::value).map(|least| least.memory)),
        rate.map_or_else(String::new, |rate| show(rate, Unit::PerSecond)),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::sample;
    use super::super::{html, markdown};
    use super::*;

    #[test]
    fn every_section_has_its_numbers_in_both_formats() {
        let results = sample();
        let blocks = document(&results);
        let (text, page) = (markdown::write(&blocks), html::write(&title(&results), &blocks));
        for part in [
            "102 ms",
            "9.03 s",
            "60.5 KiB",
            "3.00 MiB",
            "100",
            "2 (22, 80) of 65535",
            "they are listed below",
            "p = 0.0286",
        ] {
            assert!(text.contains(part), "{part}: {text}");
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("<i>"), "{page}");
        assert!(
            page.contains("&lt;script&gt;") && text.contains("<script>"),
            "the console is there, as text"
        );
        for foreign in ["http:", "https:", "src=\"", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn nothing_measured_gives_a_report_that_says_so() {
        let mut results = sample();
        results.partial = true;
        for guest in &mut results.guests {
            *guest = Guest::new(guest.name.clone(), guest.what.clone(), guest.kind, guest.arch.clone());
        }
        let text = markdown::write(&document(&results));
        assert!(text.contains("cut short") && text.contains("never started"), "{text}");
        results.guests.clear();
        assert!(!markdown::write(&document(&results)).is_empty());
    }

    #[test]
    fn guests_that_do_not_differ_are_said_not_to() {
        let (near, far) = ([1.0, 2.0, 3.0, 2.2, 1.8], [9.0, 9.1, 9.2, 9.3, 9.4]);
        let same = times_differ("a", &near, "b", &[1.5, 2.5, 2.0, 1.9, 2.1], "is ready").unwrap();
        assert!(same.contains("do not differ"), "{same}");
        let other = times_differ("a", &near, "b", &far, "is ready").unwrap();
        assert!(!other.contains("do not differ"), "{other}");
        // Three against three could not be told apart however far they are.
        for count in [1, 3] {
            let few = times_differ("a", &near[..count], "b", &far[..count], "is ready").unwrap();
            assert!(few.contains("too few"), "{few}");
        }
    }
}
