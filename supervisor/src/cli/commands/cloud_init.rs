//! What cloud-init makes of its work in a guest: `wait NAME cloud-init` and `logs NAME --source cloud-init`, by the guest's agent.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::exec;
use crate::cli::args::LogsArgs;
use crate::cli::context::Context;
use crate::cli::deadline::{Deadline, call};
use crate::cli::exit::{ExitKind, Failed};
use crate::cli::{Outcome, output};
use crate::store::VmDir;
use crate::vm::control::{Failure, FailureKind, Reply, Request, Stream};

/// What it writes of itself, and what its modules and scripts print (cloud-init's documentation, "Log files").
const LOGS: [&str; 2] = ["/var/log/cloud-init.log", "/var/log/cloud-init-output.log"];

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// All is done.
    Done,
    /// All is done, with warnings.
    Degraded,
    /// Something could not be done.
    Error,
    /// It was not to run.
    Disabled,
}

/// What cloud-init reports in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    /// In one word.
    pub(super) status: Status,
    /// What went wrong, or why it did not run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) messages: Vec<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Degraded => "degraded",
            Self::Error => "error",
            Self::Disabled => "disabled",
        })
    }
}

/// What `cloud-init status --format json` prints. Versions before 23.4 know nothing of degradation.
#[derive(Debug, Deserialize)]
struct Printed {
    status: String,
    #[serde(default)]
    extended_status: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<String>,
    #[serde(default)]
    recoverable_errors: BTreeMap<String, Vec<String>>,
}

impl Report {
    fn read(json: &[u8]) -> Result<Self, Failed> {
        let printed: Printed = serde_json::from_slice(json).map_err(|e| {
            Failed::wrap(ExitKind::Other, e).context("`cloud-init status` in the guest printed no report")
        })?;
        let recovered = printed.recoverable_errors.into_values().flatten();
        let (status, messages) = match printed.status.as_str() {
            "done" if printed.extended_status.contains("degraded") => (Status::Degraded, recovered.collect()),
            "done" => (Status::Done, Vec::new()),
            "disabled" => (Status::Disabled, vec![printed.detail]),
            // From 23.4 on `error` without errors is what `degraded` is elsewhere.
            _ => (Status::Error, printed.errors.into_iter().chain(recovered).collect()),
        };
        Ok(Self { status, messages })
    }

    /// Nothing where cloud-init has done its work; warnings are told.
    ///
    /// # Errors
    /// [`ExitKind::Other`] when something failed, [`ExitKind::WrongState`] when it did not run.
    pub(super) fn judge(&self, name: &str) -> Result<(), Failed> {
        let said = self.messages.join("\n");
        match self.status {
            Status::Done => Ok(()),
            Status::Degraded => {
                output::say(format_args!("midge: cloud-init did its work with warnings: {said}"));
                Ok(())
            }
            Status::Error => Err(Failed::new(ExitKind::Other, said)
                .context(format!("cloud-init in `{name}` failed"))
                .hint(format!("midge logs {name} --source cloud-init"))),
            Status::Disabled => Err(Failed::new(ExitKind::WrongState, said)
                .context(format!("cloud-init does not run in `{name}`"))
                .hint("VMs provisioned by credentials keep it off: create with `--provision cloud-init`")),
        }
    }
}

/// Waits until cloud-init has done its work, and answers how it went. The agent is there already.
pub(super) fn report(context: &Context, vm: &VmDir, deadline: Deadline) -> Result<Report, Failed> {
    let mut client = context.connect(vm)?;
    let argv = ["cloud-init", "status", "--wait", "--format", "json"].map(str::to_owned).to_vec();
    let request = Request::Exec { argv, env: BTreeMap::new(), dir: None, input: None };
    let missing = || Failed::new(ExitKind::WrongState, "the guest has no cloud-init");
    let (mut printed, mut code) = (Vec::new(), 0);
    call(&mut client, &request, deadline, |reply| {
        match reply {
            Reply::Output { stream: Stream::Stdout, data } => printed.extend(exec::decode(&data)?),
            Reply::Exited { code: exit } => code = exit,
            _ => {}
        }
        Ok(())
    })
    .map_err(|failed| match failed.error.downcast_ref() {
        Some(Failure { kind: FailureKind::NotFound, .. }) => missing(),
        _ => failed,
    })?;
    if code == exec::NO_PROGRAM {
        return Err(missing());
    }
    Report::read(&printed)
}

/// `midge logs --source cloud-init`.
pub(super) fn logs(context: &Context, args: &LogsArgs, vm: &VmDir) -> Outcome {
    let mut client = context.connect(vm)?;
    let lines = args.tail.map_or_else(|| "+1".to_owned(), |count| count.to_string());
    let mut argv = vec!["tail".to_owned(), "-q".to_owned(), "-n".to_owned(), lines];
    argv.extend(args.follow.then(|| "-F".to_owned()));
    argv.extend(LOGS.map(str::to_owned));
    let request = Request::Exec { argv, env: BTreeMap::new(), dir: None, input: None };
    exec::execute(&mut client, &request, Deadline::after(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json: &str) -> (Status, Vec<String>) {
        let report = Report::read(json.as_bytes()).unwrap();
        (report.status, report.messages)
    }

    #[test]
    fn reports_of_old_and_new_versions_are_read() {
        // 22.4 (Debian 12)
        let old = r#"{"boot_status_code":"enabled-by-generator","status":"done","detail":"DataSourceNoCloud","errors":[]}"#;
        assert_eq!(status(old), (Status::Done, vec![]));
        let failed = r#"{"status":"error","detail":"a\nb","errors":["a","b"]}"#;
        assert_eq!(status(failed), (Status::Error, vec!["a".to_owned(), "b".to_owned()]));
        let off = r#"{"status":"disabled","detail":"Cloud-init disabled by kernel parameter"}"#;
        assert_eq!(status(off).0, Status::Disabled);
        // 25.1 (Debian 13)
        let new = r#"{"status":"done","extended_status":"degraded done","errors":[],
            "recoverable_errors":{"WARNING":["no locale"],"DEPRECATED":["old key"]}}"#;
        assert_eq!(status(new), (Status::Degraded, vec!["old key".to_owned(), "no locale".to_owned()]));
        assert!(Report::read(b"").is_err());
    }

    #[test]
    fn what_failed_has_a_code_of_its_own() {
        let judge =
            |status| Report { status, messages: Vec::new() }.judge("web").map_err(|failed| failed.kind);
        assert_eq!(judge(Status::Done), Ok(()));
        assert_eq!(judge(Status::Degraded), Ok(()));
        assert_eq!(judge(Status::Error), Err(ExitKind::Other));
        assert_eq!(judge(Status::Disabled), Err(ExitKind::WrongState));
    }
}
