//! `compare`: guests side by side, booted under the same flags and measured in the same way.
//!
//! What is measured is looked at by [`crate::compare`]; here are the VMs: [`guests`] finds out what is meant, [`trial`] boots one and
//! takes it away again, [`boots`] measures boots, [`inside`] a guest that runs, [`least`] the least memory. [`progress`] tells how far it is.

mod boots;
mod guests;
mod inside;
mod least;
mod progress;
mod trial;

use std::fs;
use std::path::Path;

use crate::cli::args::{CompareArgs, Format};
use crate::cli::context::Context;
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::table::Table;
use crate::cli::{Outcome, output};
use crate::compare::results::{Host, ResultsError, SCHEMA, Settings};
use crate::compare::{Results, Section, against, html, markdown, report};
use crate::host::{HostFacts, HostRoot};
use crate::store::{StoreError, write_whole};

use guests::Contender;
use progress::Progress;
use trial::Trials;

/// What is compared when nothing is named.
const DEFAULT: [&str; 2] = ["hello", "debian:12"];

impl From<ResultsError> for Failed {
    fn from(error: ResultsError) -> Self {
        let kind = match &error {
            ResultsError::Io { source, .. } => crate::cli::exit::io_kind(source),
            ResultsError::Strange { .. } | ResultsError::Newer { .. } => ExitKind::Usage,
        };
        Self::wrap(kind, error)
    }
}

/// `midge compare`.
pub(super) fn compare(context: &Context, args: &CompareArgs) -> Outcome {
    let old = args.against.as_deref().map(Results::read).transpose()?;
    // Before hours of work: the report must have a place.
    fs::create_dir_all(&args.report)
        .map_err(|e| Failed::io(format!("cannot make the folder {}", args.report.display()), e))?;
    let (results, code) = match &args.from {
        Some(from) => (Results::read(from)?, 0),
        None => measure(context, args)?,
    };
    write(&args.report, &results, old.as_ref())?;
    print(context, args, &results, old.as_ref())?;
    Ok(code)
}

/// Measures, and answers the exit code: that of a signal where one cut it short.
fn measure(context: &Context, args: &CompareArgs) -> Result<(Results, u8), Failed> {
    let words: Vec<String> =
        if args.guests.is_empty() { DEFAULT.map(str::to_owned).to_vec() } else { args.guests.clone() };
    let contenders = guests::find(context, args, &words)?;
    let only = if args.only.is_empty() { Section::ALL.to_vec() } else { args.only.clone() };
    let mut results = begin(args, &contenders, only)?;
    let progress = Progress::new(context.voice);
    let trials = Trials::new(context, args, progress)?;
    let outcome = everything(&trials, &contenders, &mut results);
    results.ended = jiff::Timestamp::now();
    let code = trials.interrupted();
    trials.end();
    results.partial = code.is_some();
    match (outcome, code) {
        (Err(failed), None) => Err(failed),
        (_, code) => {
            if code.is_some() {
                context.voice.note("cut short: what was measured so far is written, marked as partial");
            }
            Ok((results, code.unwrap_or(0)))
        }
    }
}

/// Results with nothing in them yet.
fn begin(args: &CompareArgs, contenders: &[Contender], only: Vec<Section>) -> Result<Results, Failed> {
    let facts = HostFacts::of(&HostRoot::system())
        .map_err(|e| Failed::io("cannot find out what this host has", e))?;
    let net = contenders.first().and_then(|contender| contender.spec.nets.first());
    let started = jiff::Timestamp::now();
    Ok(Results {
        schema: SCHEMA,
        midge: format!(
            "{}{}",
            env!("CARGO_PKG_VERSION"),
            if cfg!(debug_assertions) { ", a debug build" } else { "" }
        ),
        partial: true,
        started,
        ended: started,
        host: Host {
            cpu: facts.model.or(facts.cpu),
            cpus: facts.cpus,
            memory: facts.memory.total,
            kernel: facts.kernel,
            distribution: facts.distribution.name,
            page_size: facts.page_size,
            qemu: None,
            accel: None,
        },
        settings: Settings {
            runs: args.runs,
            memory: args.memory.bytes(),
            until: args.until.as_ref().map(ToString::to_string),
            timeout_seconds: args.timeout.as_secs_f64(),
            cold: args.cold,
            net: net.map(ToString::to_string).unwrap_or_default(),
            only,
            load_seconds: args.load.as_secs_f64(),
        },
        guests: contenders.iter().map(Contender::guest).collect(),
        notes: contenders.iter().filter_map(|contender| contender.note.clone()).collect(),
    })
}

/// Every section that is wanted, until a signal comes.
fn everything(trials: &Trials<'_>, contenders: &[Contender], results: &mut Results) -> Result<(), Failed> {
    let only = results.settings.only.clone();
    let wanted = |section| only.contains(&section);
    let inside = wanted(Section::Boot)
        || wanted(Section::Memory)
        || wanted(Section::Surface)
        || wanted(Section::Workload);
    let runs = if wanted(Section::Boot) { results.settings.runs } else { 0 };
    for contender in contenders {
        // A boot that is not counted, one to look inside, and about nine to find the least memory.
        let mut boots = runs + 1 + u32::from(inside);
        if wanted(Section::Memory) {
            boots += least::steps(trials.memory());
        }
        trials.progress.plan(&contender.name, boots);
    }
    boots::measure(trials, contenders, results, runs)?;
    if wanted(Section::Size) {
        for (contender, guest) in contenders.iter().zip(&mut results.guests) {
            if trials.interrupted().is_some() {
                return Ok(());
            }
            trials.progress.step(&format!("{}: image size", contender.name));
            guest.size = Some(guests::size(trials.context, contender, &guest.command_line));
        }
    }
    if inside {
        inside::measure(trials, contenders, results)?;
    }
    if wanted(Section::Memory) {
        for (contender, guest) in contenders.iter().zip(&mut results.guests) {
            if trials.interrupted().is_some() {
                return Ok(());
            }
            guest.least = least::measure(trials, contender, guest)?;
        }
    }
    Ok(())
}

/// Writes the report, each file whole.
fn write(folder: &Path, results: &Results, old: Option<&Results>) -> Result<(), Failed> {
    let mut json = serde_json::to_vec_pretty(results)
        .map_err(|e| Failed::wrap(ExitKind::Other, e).context("cannot write down the results"))?;
    json.push(b'\n');
    let mut blocks = report::document(results);
    blocks.extend(old.iter().flat_map(|old| against::section(old, results)));
    let lines: Vec<String> = results
        .guests
        .iter()
        .filter(|guest| !guest.command_line.is_empty())
        .map(|guest| format!("# {}\n{}\n", guest.name, report::command_line(&guest.command_line)))
        .collect();
    for (name, content) in [
        ("results.json", json),
        ("comparison_results.md", markdown::write(&blocks).into_bytes()),
        ("report.html", html::write(&report::title(results), &blocks).into_bytes()),
        ("command_lines.txt", lines.join("\n").into_bytes()),
    ] {
        write_whole(&folder.join(name), &content, false).map_err(|e: StoreError| Failed::from(e))?;
    }
    Ok(())
}

fn print(
    context: &Context,
    args: &CompareArgs,
    results: &Results,
    old: Option<&Results>,
) -> Result<(), Failed> {
    if args.output.format == Format::Json {
        // Its own `schema` is the first field.
        return output::print(|out| {
            serde_json::to_writer(&mut *out, results)?;
            writeln!(out)
        });
    }
    let mut table = Table::new(["GUEST", "READY", "±", "TRAVELS", "RAM IDLE", "LEAST RAM", "HTTP"]);
    for guest in &results.guests {
        table.row([guest.name.clone()].into_iter().chain(report::short(guest)));
    }
    output::table(&table)?;
    if let Some(old) = old {
        let lines = against::short(old, results);
        output::print(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))?;
    }
    context.voice.note(format_args!("the report is in {}", args.report.join("report.html").display()));
    Ok(())
}
