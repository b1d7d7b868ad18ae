//! One file for each verb, or family of verbs.

mod attach;
mod clone;
mod cloud_init;
mod cmdline;
mod compare;
mod console;
mod cp;
mod create;
mod doctor;
mod exec;
mod gc;
mod image;
mod inspect;
mod ip;
mod logs;
mod ls;
mod names;
mod net;
mod pages;
mod pool;
mod restore;
mod rm;
mod run;
mod set;
mod snapshot;
mod ssh;
mod start;
mod stats;
mod stop;
mod version;
mod wait;

use super::Outcome;
use super::args::Verb;
use super::context::Context;

/// Does what the verb says.
pub(super) fn run(context: &Context, verb: Verb) -> Outcome {
    match verb {
        Verb::Run(args) => run::run(context, &args),
        Verb::Create(args) => create::create(context, &args),
        Verb::Start(args) => start::start(context, &args),
        Verb::Stop(args) => stop::stop(context, &args),
        Verb::Kill(args) => stop::kill(context, &args),
        Verb::Restart(args) => start::restart(context, &args),
        Verb::Rm(args) => rm::rm(context, &args),
        Verb::Pause(args) => stop::pause(context, &args),
        Verb::Resume(args) => stop::resume(context, &args),
        Verb::Suspend(args) => restore::suspend(context, &args),
        Verb::Rename(args) => set::rename(context, &args),
        Verb::Set(args) => set::set(context, &args),
        Verb::Ls(args) => ls::ls(context, &args),
        Verb::Inspect(args) => inspect::inspect(context, &args.names),
        Verb::Events(args) => logs::events(context, &args),
        Verb::Logs(args) => logs::logs(context, &args),
        Verb::Stats(args) => stats::stats(context, &args.names, args.output),
        Verb::Cmdline(args) => cmdline::cmdline(context, &args),
        Verb::Wait(args) => wait::wait(context, &args),
        Verb::Ip(args) => ip::ip(context, &args),
        Verb::Hosts(args) => names::print_hosts(context, &args),
        Verb::SshConfig(args) => names::ssh_config(context, &args),
        Verb::Ssh(args) => ssh::ssh(context, &args),
        Verb::Exec(args) => exec::exec(context, args),
        Verb::Cp(args) => cp::cp(context, &args),
        Verb::Console(args) => console::console(context, &args.name),
        Verb::Clone(args) => clone::clone(context, &args),
        Verb::Restore(args) => restore::restore(context, &args),
        Verb::Snapshot(verb) => snapshot::snapshot(context, &verb),
        Verb::Pool(verb) => pool::pool(context, &verb),
        Verb::Image(verb) => image::image(context, &verb),
        Verb::Net(verb) => net::net(context, &verb),
        Verb::Compare(args) => compare::compare(context, &args),
        Verb::Doctor(args) => doctor::doctor(context, args.output),
        Verb::Gc(args) => gc::gc(context, &args),
        Verb::Completions(args) => pages::completions(args.shell),
        Verb::Version(args) => version::version(args.output),
        Verb::Man(args) => pages::man(&args.folder),
        // Taken care of before anything else, as it is no command but a process of its own.
        Verb::Supervise(_) => Ok(0),
    }
}
