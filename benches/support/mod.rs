//! What the benches share: samples and their medians, the table, the JSON beside it, promises, and waiting for a file's
//! words.
#![allow(dead_code, reason = "each bench uses its own part of this")]

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::{Value, json};
use supervisor::host::{self, HostFacts, HostRoot};
use supervisor::spec::Arch;

/// Measurements of one thing.
#[derive(Debug, Clone)]
pub struct Samples {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

impl Samples {
    /// None yet.
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self { name: name.into(), unit, values: Vec::new() }
    }

    /// Adds a measurement in the samples' unit.
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Adds a duration to samples in ms.
    pub fn time(&mut self, duration: Duration) {
        self.push(ms(duration));
    }

    /// The latest.
    pub fn last(&self) -> f64 {
        *self.values.last().unwrap_or_else(|| panic!("`{}` was never measured", self.name))
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which this part of the samples lies, between neighbours in proportion.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.values.clone();
        assert!(!sorted.is_empty(), "`{}` was never measured", self.name);
        sorted.sort_by(f64::total_cmp);
        let at = part * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }

    /// Each minus the one of the same round in `other`, so that what slows a round down as a whole drops out.
    pub fn minus(&self, other: &Self, name: impl Into<String>) -> Self {
        assert_eq!(self.values.len(), other.values.len(), "pairs of one round");
        let values = self.values.iter().zip(&other.values).map(|(a, b)| a - b).collect();
        Self { name: name.into(), unit: self.unit, values }
    }

    /// There is at least one.
    pub fn is_measured(&self) -> bool {
        !self.values.is_empty()
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "median": self.median(),
            "lower_quartile": self.quantile(0.25), "upper_quartile": self.quantile(0.75),
            "p99": self.quantile(0.99),
            "samples": self.values,
        })
    }
}

/// What a bench found: printed as a table, and written to `target/bench/NAME.json`.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    rows: Vec<Samples>,
    promises: Vec<Value>,
    lines: Vec<String>,
}

impl Report {
    /// An empty one.
    pub fn new(name: &'static str) -> Self {
        Self { name, rows: Vec::new(), promises: Vec::new(), lines: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, samples: Samples) {
        self.rows.push(samples);
    }

    /// Adds those of these rows that were measured, and says of each how long the slowest took.
    pub fn rows_with_tail(&mut self, rows: impl IntoIterator<Item = Samples>) {
        for row in rows.into_iter().filter(Samples::is_measured) {
            let text = format!("p99   {}: {:.2} {}", row.name, row.quantile(0.99), row.unit);
            self.lines.push(text);
            self.rows.push(row);
        }
    }

    /// Adds a line of text below the table.
    pub fn line(&mut self, text: impl Into<String>) {
        self.lines.push(text.into());
    }

    /// Says whether a promise is kept. Breaking one fails no bench: a busy machine may do it.
    pub fn promise(&mut self, what: &str, measured: f64, limit: f64, unit: &str) {
        let kept = measured <= limit;
        let word = if kept { "ok    " } else { "MISSED" };
        self.lines.push(format!("{word} {what}: {measured:.2} {unit}, promised at most {limit} {unit}"));
        self.promises
            .push(json!({ "what": what, "measured": measured, "limit": limit, "unit": unit, "kept": kept }));
    }

    /// As [`Report::promise`], of a ratio that is to be this or more.
    pub fn promise_at_least(&mut self, what: &str, measured: f64, limit: f64) {
        let kept = measured >= limit;
        let word = if kept { "ok    " } else { "MISSED" };
        self.lines.push(format!("{word} {what}: {measured:.3}, promised at least {limit}"));
        self.promises.push(json!({ "what": what, "measured": measured, "at_least": limit, "kept": kept }));
    }

    /// Prints the table and writes the file.
    pub fn finish(self) {
        let machine = machine();
        let text = |key: &str| machine[key].as_str().unwrap_or("unknown").to_owned();
        println!(
            "\n{}: {}, {} CPUs, Linux {}, {}",
            self.name,
            text("cpu"),
            machine["cpus"],
            text("kernel"),
            text("qemu")
        );
        println!("load at the end: {}\n", text("load"));
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(8);
        println!(
            "{:<width$}  {:>9}  {:>9}  {:>9}  {:>9}  {:>4}",
            "", "least", "quartile", "median", "quartile", "n"
        );
        for row in &self.rows {
            let [least, low, middle, high] = [0.0, 0.25, 0.5, 0.75].map(|part| row.quantile(part));
            println!(
                "{:<width$}  {least:>9.3}  {low:>9.3}  {middle:>9.3}  {high:>9.3}  {:>4}  {}",
                row.name,
                row.values.len(),
                row.unit
            );
        }
        println!();
        for line in &self.lines {
            println!("{line}");
        }
        let rows: Vec<Value> = self.rows.iter().map(Samples::json).collect();
        let all = json!({
            "bench": self.name, "machine": machine, "rows": rows, "promises": self.promises, "notes": self.lines,
        });
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("bench");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{}.json", self.name));
        fs::write(&path, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
    }
}

/// The machine, without its name.
fn machine() -> Value {
    let facts = HostFacts::of(&HostRoot::system()).unwrap();
    let qemu = host::qemu::facts(Arch::host()).map_or("no QEMU".to_owned(), |qemu| qemu.version_line);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "cpu": facts.model.or(facts.cpu), "cpus": facts.cpus, "kernel": facts.kernel, "qemu": qemu,
        "kvm": host::kvm::state(), "load": load.trim(),
    })
}

/// How often to repeat: `MIDGE_BENCH_ROUNDS`, else `default`.
pub fn rounds(default: usize) -> usize {
    std::env::var("MIDGE_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Runs a command to its end without its output, and answers how long that took, from before its spawn to its end.
pub fn run(mut command: Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let status = command.status().unwrap();
    let took = begun.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

/// A file that is being written, or will be, in a folder that exists; watched by inotify(7).
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    inotify: Inotify,
}

impl Watched {
    /// Watches from now on.
    pub fn new(path: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(path.parent().unwrap(), flags).unwrap();
        Self { path: path.to_owned(), inotify }
    }

    /// Waits until the file holds `words`, and answers when.
    pub fn wait_for(&self, words: &str, patience: Duration) -> Instant {
        let given_up = Instant::now() + patience;
        loop {
            let text = fs::read(&self.path).unwrap_or_default();
            if text.windows(words.len()).any(|part| part == words.as_bytes()) {
                return Instant::now();
            }
            let left = given_up.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let ready = poll(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)], left).unwrap();
            let said = String::from_utf8_lossy(&text);
            assert!(ready > 0, "`{words}` did not come in {}; it holds: {said}", self.path.display());
            self.inotify.read_events().unwrap();
        }
    }
}
