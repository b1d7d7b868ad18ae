//! `ls`.

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::args::{Format, LsArgs};
use crate::cli::context::Context;
use crate::cli::describe::{self, Seen};
use crate::cli::table::Table;
use crate::cli::{Outcome, output, units};
use crate::machine::ResolvedAccel;
use crate::vm::End;

/// `midge ls`: every VM there is. A damaged record is a row, not a failure.
pub(super) fn ls(context: &Context, args: &LsArgs) -> Outcome {
    let home = context.home()?;
    let names = home.vm_names()?;
    let names_only = context.voice.quiet || args.output.format == Format::Name;
    if names_only && !args.running && args.label.is_empty() {
        // Nothing needs to be read.
        output::print(|out| names.iter().try_for_each(|name| writeln!(out, "{name}")))?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let vms = names.iter().filter_map(|name| Seen::read(&home.vm(name)));
    let vms: Vec<Seen> = vms.filter(|seen| fits(seen, args)).collect();
    match args.output.format {
        _ if names_only => output::print(|out| vms.iter().try_for_each(|vm| writeln!(out, "{}", vm.name)))?,
        Format::Json => output::json_lines(vms.iter().map(Line::of))?,
        Format::Wide => output::table(&wide(&vms, now))?,
        Format::Table | Format::Name => output::table(&table(&vms, now))?,
    }
    Ok(0)
}

fn fits(seen: &Seen, args: &LsArgs) -> bool {
    if args.running && describe::running(&seen.status).is_none() {
        return false;
    }
    let labels = seen.record.as_ref().ok().map(|record| &record.spec.labels);
    args.label.iter().all(|wanted| {
        let (key, value) = wanted.split_once('=').map_or((wanted.as_str(), None), |(k, v)| (k, Some(v)));
        let found = labels.and_then(|labels| labels.get(key));
        found.is_some_and(|found| value.is_none_or(|value| value == found))
    })
}

const COLUMNS: [&str; 7] = ["NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "PORTS", "UPTIME / LAST END"];

fn table(vms: &[Seen], now: Timestamp) -> Table {
    let mut table = Table::new(COLUMNS);
    for vm in vms {
        table.row(row(vm, now));
    }
    table
}

fn row(vm: &Seen, now: Timestamp) -> Vec<String> {
    let spec = vm.record.as_ref().ok().map(|record| &record.spec);
    let run = describe::running(&vm.status);
    vec![
        vm.name.clone(),
        vm.state().to_owned(),
        spec.map(describe::boots).unwrap_or_default(),
        spec.map(|spec| spec.cpus.to_string()).unwrap_or_default(),
        spec.map(|spec| spec.memory.to_string()).unwrap_or_default(),
        describe::reach(spec, run),
        vm.uptime_or_end(now),
    ]
}

fn wide(vms: &[Seen], now: Timestamp) -> Table {
    let more = ["KIND", "ARCH", "ACCEL", "PID", "RESTARTS", "TTL LEFT", "CREATED", "LABELS"];
    let mut table = Table::new(COLUMNS.into_iter().chain(more));
    for vm in vms {
        let record = vm.record.as_ref().ok();
        let spec = record.map(|record| &record.spec);
        let run = describe::running(&vm.status);
        let labels = spec
            .map(|spec| spec.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","));
        let mut cells = row(vm, now);
        cells.extend([
            spec.map(|spec| spec.kind.to_string()).unwrap_or_default(),
            spec.map(|spec| spec.arch.to_string()).unwrap_or_default(),
            run.and_then(|run| run.accel).map(|accel| accel_word(accel).to_owned()).unwrap_or_default(),
            run.and_then(|run| run.qemu.as_ref()).map(|qemu| qemu.pid.to_string()).unwrap_or_default(),
            run.map(|run| run.restarts.to_string()).unwrap_or_default(),
            run.and_then(|run| run.expires)
                .and_then(|at| describe::left(at, now))
                .map(units::age)
                .unwrap_or_default(),
            record.map(|record| units::moment(record.created)).unwrap_or_default(),
            labels.unwrap_or_default(),
        ]);
        table.row(cells);
    }
    table
}

fn accel_word(accel: ResolvedAccel) -> &'static str {
    match accel {
        ResolvedAccel::Kvm => "kvm",
        ResolvedAccel::Tcg => "tcg",
    }
}

/// One line of `ls -o json`. A field that is not known is absent.
#[derive(Debug, Serialize)]
struct Line<'a> {
    name: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<&'a std::path::Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    addresses: &'a [std::net::IpAddr],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<crate::spec::Forward>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a std::collections::BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_end: Option<&'a End>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Timestamp>,
}

impl<'a> Line<'a> {
    fn of(vm: &'a Seen) -> Self {
        let record = vm.record.as_ref().ok();
        let spec = record.map(|record| &record.spec);
        let run = describe::running(&vm.status);
        Self {
            name: &vm.name,
            state: vm.state(),
            problem: vm.record.as_ref().err().map(ToString::to_string),
            image: spec.and_then(|spec| spec.boot.image.as_deref()),
            kernel: spec.and_then(|spec| spec.boot.kernel.as_deref()),
            cpus: spec.map(|spec| spec.cpus),
            memory_bytes: spec.map(|spec| spec.memory.bytes()),
            created: record.map(|record| record.created),
            started: run.and_then(|run| run.started),
            expires: run.and_then(|run| run.expires),
            pid: run.and_then(|run| run.qemu.as_ref()).map(|qemu| qemu.pid),
            addresses: run.map(|run| run.addresses.as_slice()).unwrap_or_default(),
            ports: spec
                .into_iter()
                .flat_map(|spec| &spec.nets)
                .flat_map(|net| net.forwards().to_vec())
                .collect(),
            labels: spec.map(|spec| &spec.labels).filter(|labels| !labels.is_empty()),
            last_end: vm.last.as_ref().map(|last| &last.end),
            ended: vm.last.as_ref().map(|last| last.ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::proc::ProcessId;
    use crate::spec::{Net, VmSpec};
    use crate::store::{LastRun, Record, RunState, SCHEMA, Status, StoreError};
    use crate::vm::{Cause, State};

    fn record(name: &str) -> Record {
        let mut spec = VmSpec::named(name);
        spec.boot.image = Some("debian:12".to_owned());
        spec.nets = vec![Net::User { forwards: vec!["8080:80".parse().unwrap()], mac: None }];
        spec.labels.insert("job".to_owned(), "7".to_owned());
        let (id, created) = (uuid::Uuid::nil(), Timestamp::UNIX_EPOCH);
        Record { schema: SCHEMA, id, created, spec, image: None, macs: Vec::new() }
    }

    fn run(state: State) -> RunState {
        RunState {
            started: Some(Timestamp::UNIX_EPOCH),
            accel: Some(ResolvedAccel::Tcg),
            addresses: vec!["10.0.2.15".parse().unwrap()],
            ..RunState::begun(ProcessId::current().unwrap(), state)
        }
    }

    fn seen() -> Vec<Seen> {
        let last = LastRun {
            schema: SCHEMA,
            started: Timestamp::UNIX_EPOCH,
            ended: Timestamp::UNIX_EPOCH,
            end: End { cause: Cause::PoweredOff, asked_by: None },
            phases: Vec::new(),
        };
        let damaged = StoreError::Damaged {
            name: "c".to_owned(),
            path: "/c/vm.json".into(),
            reason: "cut short".to_owned(),
        };
        vec![
            Seen {
                name: "a".to_owned(),
                record: Ok(record("a")),
                status: Status::Supervised(run(State::Running)),
                last: None,
            },
            Seen { name: "b".to_owned(), record: Ok(record("b")), status: Status::Stopped, last: Some(last) },
            Seen { name: "c".to_owned(), record: Err(damaged), status: Status::Stopped, last: None },
        ]
    }

    #[test]
    fn the_table_shows_all_states() {
        let mut out = Vec::new();
        table(&seen(), Timestamp::UNIX_EPOCH + Duration::from_mins(2)).write(&mut out).unwrap();
        let expected = "\
NAME  STATE    IMAGE      CPUS  MEMORY  PORTS               UPTIME / LAST END
a     running  debian:12  1     512M    8080->80 10.0.2.15  2m 0s
b     stopped  debian:12  1     512M    8080->80            powered off, 2m 0s ago
c     damaged  -          -     -       -                   -
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn the_wide_table_has_a_cell_for_every_column() {
        let mut out = Vec::new();
        wide(&seen(), Timestamp::UNIX_EPOCH).write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().nth(1).unwrap().ends_with("job=7"), "{text}");
        let damaged: Vec<&str> = text.lines().nth(3).unwrap().split_whitespace().collect();
        assert_eq!(damaged[..2], ["c", "damaged"]);
        assert_eq!(damaged[2..], ["-"; 13], "{text}");
    }

    #[test]
    fn json_tells_a_damaged_record_apart() {
        let vms = seen();
        let lines: Vec<serde_json::Value> =
            vms.iter().map(|vm| serde_json::to_value(Line::of(vm)).unwrap()).collect();
        assert_eq!(lines[0]["state"], "running");
        assert_eq!(lines[0]["ports"][0]["guest"], 80);
        assert_eq!(lines[1]["last_end"]["cause"], "powered-off");
        assert_eq!(lines[2]["state"], "damaged");
        assert!(lines[2]["problem"].as_str().unwrap().contains("cut short"));
    }

    #[test]
    fn labels_and_running_choose() {
        let vms = seen();
        let args = |running, label: &[&str]| LsArgs {
            all: false,
            running,
            label: label.iter().map(ToString::to_string).collect(),
            output: crate::cli::args::Output { format: Format::Table },
        };
        let chosen = |args: &LsArgs| {
            vms.iter().filter(|vm| fits(vm, args)).map(|vm| vm.name.as_str()).collect::<String>()
        };
        assert_eq!(chosen(&args(false, &[])), "abc");
        assert_eq!(chosen(&args(true, &[])), "a");
        assert_eq!(chosen(&args(false, &["job"])), "ab");
        assert_eq!(chosen(&args(false, &["job=8"])), "");
    }
}
