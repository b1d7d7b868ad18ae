//! `stats`.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::args::Output;
use crate::cli::context::{Context, each};
use crate::cli::deadline::{Deadline, call};
use crate::cli::describe;
use crate::cli::exit::Failed;
use crate::cli::table::Table;
use crate::cli::{Outcome, output, units};
use crate::vm::control::Request;

/// How long a supervisor may take to look at its QEMU.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// `midge stats`: one look at what VMs use.
pub(super) fn stats(context: &Context, names: &[String], output: Output) -> Outcome {
    let home = context.home()?;
    let running = |name: &String| describe::running(&home.vm(name).status()).is_some();
    let names = match names {
        [] => home.vm_names()?.into_iter().filter(running).collect(),
        names => names.to_vec(),
    };
    let mut rows = Vec::new();
    let outcome = each(&names, |name| {
        rows.push((name.clone(), one(context, name)?));
        Ok(())
    });
    if output.json() {
        output::json_lines(rows.iter().map(|(name, values)| Use { name, values }))?;
    } else if !rows.is_empty() || names.is_empty() {
        output::table(&table(&rows))?;
    }
    outcome
}

#[derive(Serialize)]
struct Use<'a> {
    name: &'a str,
    #[serde(flatten)]
    values: &'a Map<String, Value>,
}

fn one(context: &Context, name: &str) -> Result<Map<String, Value>, Failed> {
    let mut client = context.connect(&context.vm(name)?)?;
    match call(&mut client, &Request::Stats, Deadline::after(Some(LIMIT)), |_| Ok(()))? {
        Value::Object(values) => Ok(values),
        _ => Ok(Map::new()),
    }
}

/// The columns: the header, the field, and how it is shown.
const COLUMNS: [(&str, &str, Form); 10] = [
    ("PID", "pid", Form::Number),
    ("UPTIME", "uptime_seconds", Form::Time),
    ("CPU TIME", "cpu_seconds", Form::Time),
    ("RSS", "rss", Form::Bytes),
    ("PSS", "pss", Form::Bytes),
    ("PRIVATE", "private", Form::Bytes),
    ("RAM USED", "ram_touched", Form::Bytes),
    ("DISK", "disk_allocated", Form::Bytes),
    ("READ", "disk_read_bytes", Form::Bytes),
    ("WRITTEN", "disk_written_bytes", Form::Bytes),
];

#[derive(Debug, Clone, Copy)]
enum Form {
    Number,
    Time,
    Bytes,
}

fn table(rows: &[(String, Map<String, Value>)]) -> Table {
    let mut table = Table::new(["NAME"].into_iter().chain(COLUMNS.map(|(header, ..)| header)));
    for (name, values) in rows {
        let cells = COLUMNS.map(|(_, field, form)| cell(values.get(field), form));
        table.row([name.clone()].into_iter().chain(cells));
    }
    table
}

fn cell(value: Option<&Value>, form: Form) -> String {
    let Some(value) = value else { return String::new() };
    match form {
        Form::Number => value.as_u64().map(|n| n.to_string()),
        Form::Bytes => value.as_u64().map(units::bytes),
        Form::Time => value.as_f64().map(|seconds| match seconds {
            ..60.0 => format!("{seconds:.1}s"),
            _ => units::age(std::time::Duration::from_secs_f64(seconds)),
        }),
    }
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let values = serde_json::json!({"pid": 7, "cpu_seconds": 1.25, "rss": 3_u64 << 20, "pss": null});
        let Value::Object(values) = values else { unreachable!() };
        let mut out = Vec::new();
        table(&[("a".to_owned(), values)]).write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["a", "7", "-", "1.2s", "3.0M", "-", "-", "-", "-", "-", "-"]);
    }
}
