//! `doctor`.

use std::fmt::Write;

use serde::Serialize;

use crate::cli::args::Output;
use crate::cli::context::Context;
use crate::cli::exit::ExitKind;
use crate::cli::{Outcome, output};
use crate::host::doctor::{self, Check, Status};

#[derive(Serialize)]
struct Report<'a> {
    /// No check failed.
    fit: bool,
    checks: &'a [Check],
}

/// `midge doctor`: ends with [`ExitKind::HostUnfit`] when no VM could be started.
pub(super) fn doctor(context: &Context, format: Output) -> Outcome {
    let home = context.home()?;
    let checks = doctor::checks(&doctor::Context::of_system(home.state().to_owned(), home.run().to_owned()));
    let fit = checks.iter().all(|check| check.status != Status::Fail);
    if format.json() {
        output::json_pretty(&Report { fit, checks: &checks })?;
    } else {
        output::print(|out| checks.iter().try_for_each(|check| out.write_all(lines(check).as_bytes())))?;
    }
    Ok(if fit { 0 } else { ExitKind::HostUnfit.code() })
}

/// A check as people read it: what it found, and what to do below it.
fn lines(check: &Check) -> String {
    let word = match check.status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    let mut text = format!("{word:<5} {:<16} {}\n", check.id, check.summary);
    if check.status != Status::Ok {
        for (label, more) in [("", &check.detail), ("next: ", &check.next)] {
            for line in more.iter().flat_map(|more| more.lines()) {
                let _ = writeln!(text, "{:23}{label}{line}", "");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_amiss_comes_with_what_to_do() {
        let mut check = Check {
            id: "kvm",
            status: Status::Warn,
            summary: "KVM only emulates".to_owned(),
            detail: Some("slow".to_owned()),
            next: Some("use --accel tcg".to_owned()),
        };
        let indent = " ".repeat(23);
        let expected = format!(
            "warn  kvm              KVM only emulates\n{indent}slow\n{indent}next: use --accel tcg\n"
        );
        assert_eq!(lines(&check), expected);
        check.status = Status::Ok;
        assert_eq!(lines(&check).lines().count(), 1);
    }
}
