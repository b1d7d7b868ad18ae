//! `net` and its flags.

use clap::{Args, Subcommand, ValueEnum};

use super::Output;

/// What `net` can do.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum NetVerb {
    /// Look for what keeps guests from the network
    Check(NetCheckArgs),
    /// List the bridges of this host and midge's own network
    #[command(alias = "list")]
    Ls(NetLsArgs),
    /// Make a bridge over an uplink, so that guests are on the same network as this host
    Up(NetUpArgs),
    /// Take such a bridge away again
    Down(NetDownArgs),
    /// List the addresses that midge's own network has given
    Leases(NetLeasesArgs),
    /// Carry out what `net up` or `net down` has written down
    #[command(hide = true)]
    Apply(NetApplyArgs),
    /// Let a user without privilege use bridges and midge's own network from now on
    Setup(NetSetupArgs),
}

/// `net check`.
#[derive(Debug, Args)]
pub(in crate::cli) struct NetCheckArgs {
    /// The bridge that guests are to be on; without it midge's own network is looked at.
    pub(in crate::cli) bridge: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `net ls`.
#[derive(Debug, Args)]
pub(in crate::cli) struct NetLsArgs {
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `net up`.
#[derive(Debug, Args)]
#[command(after_help = "\
The uplink becomes a port of the bridge, and its addresses and routes move to the bridge. When the default gateway does
not answer through the bridge within 10 seconds, everything is put back. What midge makes is gone with a reboot: `--print`
shows how to make it for good with this host's own tools.

Examples:
  midge net up br0 --uplink eth0
  midge net up br0 --uplink eth0 --print netplan")]
pub(in crate::cli) struct NetUpArgs {
    /// The bridge to make.
    #[arg(default_value = "br0")]
    pub(in crate::cli) bridge: String,
    /// The wired interface that leads to the network.
    #[arg(long, value_name = "INTERFACE")]
    pub(in crate::cli) uplink: String,
    /// Do not ask.
    #[arg(short, long, conflicts_with = "print")]
    pub(in crate::cli) yes: bool,
    /// Change nothing: print the plan, and how to do it for good with this tool.
    #[arg(long, value_enum, value_name = "TOOL", num_args = 0..=1, default_missing_value = "auto")]
    pub(in crate::cli) print: Option<Recipe>,
}

/// What to write a recipe for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Recipe {
    /// What this host seems to use.
    Auto,
    /// netplan (netplan(5)).
    Netplan,
    /// NetworkManager (nmcli(1)).
    Nm,
    /// systemd-networkd (systemd.network(5)).
    Networkd,
    /// ifupdown (interfaces(5)).
    Ifupdown,
}

/// `net down`.
#[derive(Debug, Args)]
pub(in crate::cli) struct NetDownArgs {
    /// The bridge.
    #[arg(default_value = "br0")]
    pub(in crate::cli) bridge: String,
    /// Do not ask.
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
}

/// `net apply`.
#[derive(Debug, Args)]
pub(in crate::cli) struct NetApplyArgs {
    /// The bridge.
    pub(in crate::cli) bridge: String,
}

/// `net leases`.
#[derive(Debug, Args)]
pub(in crate::cli) struct NetLeasesArgs {
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `net setup`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: sudo midge net setup --user pi --net nat --net bridge=br0

Needs root once, and again after a reboot: `--boot` writes a unit for systemd that does it.")]
pub(in crate::cli) struct NetSetupArgs {
    /// The user.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) user: String,
    /// For which networks: nat or bridge=NAME; repeatable. Both nat and every bridge of this host when absent.
    #[arg(long, value_name = "NETWORK")]
    pub(in crate::cli) net: Vec<crate::spec::Net>,
    /// How many interfaces the user's VMs may have on each at the same time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=250))]
    pub(in crate::cli) taps: u16,
    /// Take it all away again.
    #[arg(long)]
    pub(in crate::cli) remove: bool,
    /// Do it at every boot: writes a unit for systemd.
    #[arg(long, conflicts_with = "remove")]
    pub(in crate::cli) boot: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
}
