//! The verbs and their flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::image::ImageVerb;
use super::values::{self, Place, WaitFor};
use super::{
    CloneArgs, CompareArgs, NetVerb, Output, PoolVerb, RestoreArgs, SetFlags, SnapshotVerb, SpecFlags,
    SuspendArgs,
};
use crate::image::cow::Cow;

/// What midge can be told to do.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Create a VM and start it; in the foreground unless -d
    #[command(alias = "launch")]
    Run(Box<RunArgs>),
    /// Create a VM without starting it
    Create(Box<CreateArgs>),
    /// Start VMs; one that runs already is left alone
    Start(StartArgs),
    /// Stop VMs in good order, by force after a time; one that is stopped is left alone
    Stop(StopArgs),
    /// End VMs at once, as by pulling the plug
    Kill(Names),
    /// Stop VMs and start them again
    Restart(RestartArgs),
    /// Remove VMs, with their disks
    #[command(aliases = ["delete", "remove"])]
    Rm(RmArgs),
    /// Let a VM's CPUs stand still
    Pause(Names),
    /// Save VMs and end them: `resume` or `start` lets them go on from there
    Suspend(SuspendArgs),
    /// Let a paused or suspended VM go on
    Resume(Names),
    /// Give a stopped VM another name
    Rename(RenameArgs),
    /// Change a stopped VM
    Set(SetArgs),

    /// List VMs
    #[command(aliases = ["list", "ps"])]
    Ls(LsArgs),
    /// Show everything about VMs, as JSON
    #[command(aliases = ["info", "show"])]
    Inspect(Names),
    /// Show what happened to a VM
    Events(EventsArgs),
    /// Show what a guest or its QEMU wrote
    #[command(alias = "log")]
    Logs(LogsArgs),
    /// Show the use of CPU, memory and disk
    Stats(StatsArgs),
    /// Show the QEMU command line of a VM
    Cmdline(CmdlineArgs),

    /// Wait until a VM shows a sign, or ends
    Wait(WaitArgs),
    /// Show a VM's addresses
    Ip(IpArgs),
    /// Print lines for /etc/hosts: the addresses and names of the VMs that run
    Hosts(HostsArgs),
    /// Print the VMs that run as a file that OpenSSH can include
    SshConfig(SshConfigArgs),
    /// Log in to a VM, or run a command there, by SSH
    #[command(alias = "shell")]
    Ssh(SshArgs),
    /// Run a command in a VM through its guest agent
    Exec(ExecArgs),
    /// Copy files between this host and a VM
    #[command(alias = "copy")]
    Cp(CpArgs),
    /// Use a VM's serial console
    Console(ConsoleArgs),

    /// Make VMs from a snapshot, or from another VM
    Clone(Box<CloneArgs>),
    /// Put a VM back to where it was saved, and let it go on from there
    Restore(RestoreArgs),
    /// Save, list, check, move and remove snapshots
    #[command(subcommand, aliases = ["snapshots", "snap"])]
    Snapshot(SnapshotVerb),

    /// Keep clones of a snapshot ready, to be claimed by `clone` in a moment
    #[command(subcommand, alias = "pools")]
    Pool(PoolVerb),

    /// Build, list and remove images
    #[command(subcommand, alias = "images")]
    Image(ImageVerb),

    /// Check, list and set up networks
    #[command(subcommand, alias = "network")]
    Net(NetVerb),

    /// Boot guests side by side and measure them: time, memory, size, attack surface, work
    Compare(Box<CompareArgs>),

    /// Check what this host can do
    Doctor(DoctorArgs),
    /// Clear away what killed commands, reboots and expired VMs left behind
    Gc(GcArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Show the versions of midge and QEMU
    Version(VersionArgs),

    /// The supervisor process of a VM
    #[command(hide = true)]
    Supervise(Name),
    /// Write the man pages to a folder
    #[command(hide = true)]
    Man(ManArgs),
}

/// One VM.
#[derive(Debug, Args)]
pub(in crate::cli) struct Name {
    /// The VM.
    pub(in crate::cli) name: String,
}

/// One or more VMs.
#[derive(Debug, Args)]
pub(in crate::cli) struct Names {
    /// The VMs.
    #[arg(required = true, value_name = "NAME")]
    pub(in crate::cli) names: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `create`.
#[derive(Debug, Args)]
#[command(after_help = "Example: midge create testvm --image debian:12 --cpus 1 --memory 512M --disk 5G")]
pub(in crate::cli) struct CreateArgs {
    /// The VM's name; made up when absent.
    #[arg(value_name = "NAME")]
    pub(in crate::cli) positional: Option<String>,
    /// The VM's name, as a flag.
    #[arg(long, conflicts_with = "positional")]
    pub(in crate::cli) name: Option<String>,
    /// Succeed when a VM of this name exists already, and leave it as it is.
    #[arg(long)]
    pub(in crate::cli) if_not_exists: bool,
    /// How the disk begins as the image's: as an overlay (qcow2), by sharing blocks (reflink, on btrfs and XFS), or as fits (auto).
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = PossibleValuesParser::new(["auto", "qcow2", "reflink"]).try_map(|word| word.parse::<Cow>()))]
    pub(in crate::cli) cow: Cow,
    /// Print the VM's description as JSON and create nothing.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    #[command(flatten)]
    pub(in crate::cli) spec: SpecFlags,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without -d and without a command, run shows the guest's serial console and ends with the guest. On a terminal,
keys go to the guest and Ctrl-] leaves it running in the background. Otherwise the first SIGINT, SIGTERM or
SIGHUP stops the guest in good order and the second one ends it at once.

With a command, the VM is a fresh one that is removed afterwards, also after Ctrl-C or a failure.

Examples:
  midge run hello
  midge run debian --name web -d --wait -p 8080:80
  midge run debian:12 -- uname -a")]
pub(in crate::cli) struct RunArgs {
    /// An image, or a kernel file (a path with a `/`, or a file that exists).
    #[arg(value_name = "IMAGE|KERNEL_FILE", conflicts_with_all = ["image", "kernel"], required_unless_present_any = ["image", "kernel", "spec"], value_hint = ValueHint::AnyPath)]
    pub(in crate::cli) target: Option<String>,
    /// The VM's name; made up when absent.
    #[arg(short, long)]
    pub(in crate::cli) name: Option<String>,
    /// Leave the VM running in the background and print its name.
    #[arg(short, long)]
    pub(in crate::cli) detach: bool,
    /// Wait until the guest is ready or shows this sign: agent, ssh, ip, tcp:PORT or serial:REGEX. Needs -d.
    #[arg(long, value_name = "SIGN", num_args = 0..=1, require_equals = true, default_missing_value = "ready", value_parser = values::wait_for, requires = "detach")]
    pub(in crate::cli) wait: Option<WaitFor>,
    /// How long to wait for --wait, or for the guest's agent before a command; default 300s.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    /// Print the VM's description as JSON and do nothing.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    #[command(flatten)]
    pub(in crate::cli) spec: SpecFlags,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    /// Run this command in a fresh VM, pass on its output and exit code, and remove the VM.
    #[arg(last = true, value_name = "CMD", conflicts_with_all = ["detach", "wait"])]
    pub(in crate::cli) command: Vec<String>,
}

/// `start`.
#[derive(Debug, Args)]
pub(in crate::cli) struct StartArgs {
    /// The VMs.
    #[arg(required = true, value_name = "NAME")]
    pub(in crate::cli) names: Vec<String>,
    /// Wait until the guest is ready or shows this sign (agent, ssh, ip, tcp:PORT or serial:REGEX), and show each
    /// phase as it comes.
    #[arg(long, value_name = "SIGN", num_args = 0..=1, require_equals = true, default_missing_value = "ready", value_parser = values::wait_for)]
    pub(in crate::cli) wait: Option<WaitFor>,
    /// How long to wait; default 300s. The VM goes on when the time is over.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `stop`.
#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    #[command(flatten)]
    pub(in crate::cli) stop: Stopping,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// What to stop, and how.
#[derive(Debug, Args)]
pub(in crate::cli) struct Stopping {
    /// The VMs.
    #[arg(required = true, value_name = "NAME")]
    pub(in crate::cli) names: Vec<String>,
    /// How long a guest may take before it is ended by force.
    #[arg(short, long, value_name = "TIME", value_parser = values::duration, default_value = "30s")]
    pub(in crate::cli) timeout: Duration,
    /// Use force at once.
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
}

/// `restart`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RestartArgs {
    #[command(flatten)]
    pub(in crate::cli) stop: Stopping,
    /// Wait until the guest is ready or shows this sign.
    #[arg(long, value_name = "SIGN", num_args = 0..=1, require_equals = true, default_missing_value = "ready", value_parser = values::wait_for)]
    pub(in crate::cli) wait: Option<WaitFor>,
    /// How long to wait for that; default 300s.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(in crate::cli) wait_timeout: Option<Duration>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `rm`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RmArgs {
    /// The VMs.
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub(in crate::cli) names: Vec<String>,
    /// End those that run first; remove also VMs whose record is damaged.
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
    /// Every VM.
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// Succeed when there is no such VM.
    #[arg(long)]
    pub(in crate::cli) if_exists: bool,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `rename`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RenameArgs {
    /// The VM.
    pub(in crate::cli) name: String,
    /// Its new name.
    #[arg(value_name = "NEW_NAME")]
    pub(in crate::cli) new: String,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `set`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SetArgs {
    /// The VM.
    pub(in crate::cli) name: String,
    #[command(flatten)]
    pub(in crate::cli) change: SetFlags,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `ls`.
#[derive(Debug, Args)]
pub(in crate::cli) struct LsArgs {
    /// All VMs, which is the default.
    #[arg(short, long)]
    pub(in crate::cli) all: bool,
    /// Only VMs that run.
    #[arg(long, conflicts_with = "all")]
    pub(in crate::cli) running: bool,
    /// Only VMs with this label; repeatable, all must fit.
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(in crate::cli) label: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `events`.
#[derive(Debug, Args)]
pub(in crate::cli) struct EventsArgs {
    /// The VM.
    pub(in crate::cli) name: String,
    /// Go on as events come, until the VM is removed.
    #[arg(short, long)]
    pub(in crate::cli) follow: bool,
    /// Only the last N.
    #[arg(short = 'n', long, value_name = "N")]
    pub(in crate::cli) tail: Option<usize>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum LogSource {
    /// What the guest wrote on its serial console.
    #[value(alias = "console")]
    Serial,
    /// What QEMU wrote on stderr.
    Qemu,
    /// What the VM's supervisor had to say.
    #[value(alias = "tool")]
    Midge,
    /// What cloud-init did in the guest, and what its modules printed; asked for by the agent.
    CloudInit,
}

/// `logs`.
#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    /// The VM.
    pub(in crate::cli) name: String,
    /// Which log.
    #[arg(long, value_enum, default_value = "serial")]
    pub(in crate::cli) source: LogSource,
    /// Go on as more is written, until the VM is removed.
    #[arg(short, long)]
    pub(in crate::cli) follow: bool,
    /// Only the last N lines.
    #[arg(short = 'n', long, value_name = "N")]
    pub(in crate::cli) tail: Option<usize>,
}

/// `stats`.
#[derive(Debug, Args)]
pub(in crate::cli) struct StatsArgs {
    /// The VMs; all that run when none is named.
    #[arg(value_name = "NAME")]
    pub(in crate::cli) names: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `cmdline`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CmdlineArgs {
    /// The VM. The command line in use while it runs, else the one that it would be started with.
    pub(in crate::cli) name: String,
    /// Show how it differs from that of another VM.
    #[arg(long, value_name = "OTHER")]
    pub(in crate::cli) diff: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `wait`.
#[derive(Debug, Args)]
pub(in crate::cli) struct WaitArgs {
    /// The VM.
    pub(in crate::cli) name: String,
    /// ready, agent, ssh, ip, tcp:PORT, serial:REGEX; cloud-init, for the end of its work, with its result; or exit (also written
    /// stopped).
    #[arg(value_name = "WHAT", default_value = "ready", value_parser = values::wait_for)]
    pub(in crate::cli) what: WaitFor,
    /// How long to wait; default 300s, and for ever for `exit`.
    #[arg(short, long, value_name = "TIME", value_parser = values::duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `ip`.
#[derive(Debug, Args)]
pub(in crate::cli) struct IpArgs {
    /// The VM.
    #[arg(required_unless_present = "wait")]
    name: Option<String>,
    /// Wait this long for an address; default 30s.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "30s")]
    wait: Option<String>,
    /// Only IPv4 addresses.
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub(in crate::cli) ipv4: bool,
    /// Only IPv6 addresses.
    #[arg(short = '6', long)]
    pub(in crate::cli) ipv6: bool,
    /// Only addresses that became known in this way; `agent` asks the guest's agent now.
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub(in crate::cli) source: values::AddressSource,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

impl IpArgs {
    /// The VM and how long to wait. In `ip --wait web` the word after the flag is the VM, as nobody names a VM `30s`.
    pub(in crate::cli) fn name_and_wait(&self) -> Result<(&str, Option<Duration>), String> {
        let wait = |text: &str| values::duration(text).map(Some).map_err(|e| e.to_string());
        match (self.name.as_deref(), self.wait.as_deref()) {
            (Some(name), None) => Ok((name, None)),
            (Some(name), Some(text)) => Ok((name, wait(text)?)),
            (None, Some(text)) if values::duration(text).is_ok() => {
                Err("which VM? write `midge ip NAME --wait TIME`".to_owned())
            }
            (None, Some(name)) => Ok((name, wait("30s")?)),
            (None, None) => Err("which VM?".to_owned()),
        }
    }
}

/// `hosts`.
#[derive(Debug, Args)]
#[command(after_help = "Example: midge hosts | sudo tee -a /etc/hosts")]
pub(in crate::cli) struct HostsArgs {
    /// Put this domain behind each name, too.
    #[arg(long, value_name = "DOMAIN")]
    pub(in crate::cli) domain: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `ssh-config`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: midge ssh-config > ~/.ssh/midge, with `Include midge` at the top of ~/.ssh/config"
)]
pub(in crate::cli) struct SshConfigArgs {}

/// `ssh`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SshArgs {
    /// The VM.
    pub(in crate::cli) name: String,
    /// Log in as this user; default the one that the VM was created with (`--user`), else root.
    #[arg(short, long, value_name = "USER")]
    pub(in crate::cli) login: Option<String>,
    /// A command to run there instead of a shell. Words are joined with blanks, as ssh(1) does.
    #[arg(last = true, value_name = "CMD")]
    pub(in crate::cli) command: Vec<String>,
}

/// `exec`.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with the command's exit code (128 + the signal that ended it); 125 is midge's own failure, 127 a program
that the guest lacks. The command runs without a shell and without a terminal: for those, use `midge ssh`.")]
pub(in crate::cli) struct ExecArgs {
    /// Give the command this command's stdin, which is read whole first (at most 8 MiB).
    #[arg(short, long)]
    pub(in crate::cli) interactive: bool,
    /// A terminal is not offered by the guest agent; `midge ssh` has one.
    #[arg(short, long, hide = true)]
    pub(in crate::cli) tty: bool,
    /// The folder to run it in.
    #[arg(short, long, value_name = "DIR")]
    pub(in crate::cli) workdir: Option<String>,
    /// A variable for its environment; repeatable.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = values::key_value)]
    pub(in crate::cli) env: Vec<(String, String)>,
    /// How long it may take; for ever when absent.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    /// The way into the guest: its agent, or SSH at its address.
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    pub(in crate::cli) via: Via,
    /// The VM.
    pub(in crate::cli) name: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub(in crate::cli) command: Vec<String>,
}

/// The way into a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Via {
    /// The guest agent, which needs no network.
    #[default]
    Agent,
    /// The system's ssh(1) and scp(1).
    Ssh,
}

/// `cp`.
#[derive(Debug, Args)]
#[command(after_help = "\
Files travel through the guest agent, so a guest without a network will do. `-` is stdin or stdout.
With -r, the folder SRC lands inside the folder DST, which is made where it is missing; it travels as a tar
archive that lies in the guest's /tmp meanwhile.")]
pub(in crate::cli) struct CpArgs {
    /// Copy folders with all that is in them.
    #[arg(short, long)]
    pub(in crate::cli) recursive: bool,
    /// The way into the guest: its agent, or SSH at its address.
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    pub(in crate::cli) via: Via,
    /// From: PATH, - or NAME:/PATH.
    #[arg(value_name = "SRC", value_parser = values::place, allow_hyphen_values = true)]
    pub(in crate::cli) source: Place,
    /// To: PATH, - or NAME:/PATH.
    #[arg(value_name = "DST", value_parser = values::place, allow_hyphen_values = true)]
    pub(in crate::cli) target: Place,
}

/// `console`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ConsoleArgs {
    /// The VM. Ctrl-] leaves its console.
    pub(in crate::cli) name: String,
}

/// `doctor`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DoctorArgs {
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `gc`.
#[derive(Debug, Args)]
pub(in crate::cli) struct GcArgs {
    /// Only say what would be cleared away.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `completions`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CompletionsArgs {
    /// The shell.
    pub(in crate::cli) shell: clap_complete::Shell,
}

/// `version`.
#[derive(Debug, Args)]
pub(in crate::cli) struct VersionArgs {
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `man`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ManArgs {
    /// The folder.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(in crate::cli) folder: PathBuf,
}
