//! `wait`.

use serde::Serialize;

use super::cloud_init;
use crate::cli::args::{WaitArgs, WaitFor};
use crate::cli::context::Context;
use crate::cli::deadline::{DEFAULT_WAIT, Deadline};
use crate::cli::evidence::Evidence;
use crate::cli::follow::{Show, follow};
use crate::cli::{Outcome, output};
use crate::vm::{End, LaunchError, Phase};

/// What `wait -o json` prints.
#[derive(Serialize)]
struct Waited<'a> {
    name: &'a str,
    phases: &'a [Phase],
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'a End>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_init: Option<&'a cloud_init::Report>,
}

/// `midge wait`.
pub(super) fn wait(context: &Context, args: &WaitArgs) -> Outcome {
    let vm = context.vm(&args.name)?;
    let mut client = match crate::vm::connect(context.home()?, &vm) {
        Ok(client) => client,
        // What was waited for has come.
        Err(LaunchError::NotRunning(_)) if args.what == WaitFor::End => {
            let last = vm.last_run()?;
            return told(args, &[], last.map(|last| last.end).as_ref(), None);
        }
        Err(error) => return Err(error.into()),
    };
    let timeout = args.timeout.or((args.what != WaitFor::End).then_some(DEFAULT_WAIT));
    let mut evidence = Evidence::of_this_run(&vm);
    let show = Show { phases: context.voice.verbose, prefix: "", notes: !context.voice.quiet };
    let deadline = Deadline::after(timeout);
    let followed = follow(&mut client, &args.what.until(), deadline, &mut evidence, show)?;
    let report = match args.what {
        WaitFor::CloudInit => Some(cloud_init::report(context, &vm, deadline)?),
        _ => None,
    };
    told(args, &followed.phases, followed.end.as_ref(), report.as_ref())?;
    report.map_or(Ok(0), |report| report.judge(&args.name).map(|()| 0))
}

fn told(
    args: &WaitArgs,
    phases: &[Phase],
    end: Option<&End>,
    report: Option<&cloud_init::Report>,
) -> Outcome {
    if args.output.json() {
        output::json(&Waited { name: &args.name, phases, end, cloud_init: report })?;
    } else if let Some(end) = end {
        output::line(end)?;
    } else if let Some(report) = report {
        output::line(report.status)?;
    }
    Ok(0)
}
