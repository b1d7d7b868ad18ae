//! The flags that describe a VM, the same for every guest.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values;
use crate::spec::{Accel, Arch, Forward, Kind, Machine, Net, Provision, Ready, Restart, Size};

/// What `create` and `run` take to describe a VM. A flag that is not given leaves what `--spec` or the default says.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct SpecFlags {
    /// Read the VM's description from a JSON file, or from stdin with `-`; flags override it.
    ///
    /// `midge create --dry-run …` prints such a description.
    #[arg(long, value_name = "FILE|-", help_heading = "What to boot")]
    pub(in crate::cli) spec: Option<PathBuf>,

    /// The image: `debian:12`, `hello`, … (see `midge image ls`); `debian` is the newest Debian there is.
    #[arg(long, visible_alias = "os", value_name = "IMAGE", help_heading = "What to boot")]
    pub(in crate::cli) image: Option<String>,

    /// Boot this kernel file; with an image, instead of the image's kernel.
    #[arg(long, value_name = "FILE", help_heading = "What to boot")]
    pub(in crate::cli) kernel: Option<PathBuf>,

    /// The initial RAM disk for the kernel.
    #[arg(long, value_name = "FILE", help_heading = "What to boot")]
    pub(in crate::cli) initrd: Option<PathBuf>,

    /// Words to add to the kernel's command line.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, help_heading = "What to boot")]
    pub(in crate::cli) append: Option<String>,

    /// The family of the guest: decides how it shows that it is ready and how it is stopped.
    #[arg(long, value_enum, value_name = "KIND", help_heading = "What to boot")]
    pub(in crate::cli) kind: Option<Kind>,

    /// Virtual CPUs.
    #[arg(short, long, value_name = "N", help_heading = "Hardware")]
    pub(in crate::cli) cpus: Option<u32>,

    /// Guest memory, such as 512M or 2G; a bare number is MiB.
    #[arg(short, long, visible_alias = "ram", value_name = "SIZE", help_heading = "Hardware")]
    pub(in crate::cli) memory: Option<Size>,

    /// Size of the VM's own disk, such as 20G; a bare number is GiB.
    #[arg(long, value_name = "SIZE", value_parser = values::disk_size, help_heading = "Hardware")]
    pub(in crate::cli) disk: Option<Size>,

    /// The machine model.
    #[arg(long, value_enum, value_name = "MODEL", help_heading = "Hardware")]
    pub(in crate::cli) machine: Option<Machine>,

    /// A CPU model of QEMU's, instead of midge's choice.
    #[arg(long, value_name = "MODEL", help_heading = "Hardware")]
    pub(in crate::cli) cpu: Option<String>,

    /// The guest's instruction set.
    #[arg(long, value_enum, value_name = "ARCH", help_heading = "Hardware")]
    pub(in crate::cli) arch: Option<Arch>,

    /// How the guest's instructions are run: `kvm` never falls back to emulation.
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Hardware")]
    pub(in crate::cli) accel: Option<Accel>,

    /// Hand this argument to QEMU as it is; repeatable. Such a VM's snapshots fit this host only.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, help_heading = "Hardware")]
    pub(in crate::cli) qemu_arg: Vec<String>,

    /// A network interface: bridge=NAME (a bridge of this host), nat (midge's own network), user (QEMU's, needs no privilege)
    /// or none (no cable); repeatable. `,mac=ADDRESS` may follow, with nat `,ip=ADDRESS`, and with bridge, where the guest is to have
    /// a fixed address, `,ip=ADDRESS/PREFIX,gateway=ADDRESS,dns=ADDRESS`.
    ///
    /// Without it there is one: what MIDGE_NET says, else nat where midge may make networks (as root), else user.
    #[arg(long, value_name = "NETWORK", help_heading = "Network")]
    pub(in crate::cli) net: Vec<Net>,

    /// Let a TCP port of this host lead to one of the guest; repeatable.
    #[arg(short, long, value_name = "[ADDR:]HOST:GUEST", help_heading = "Network")]
    pub(in crate::cli) publish: Vec<Forward>,

    /// A public key that may log in as root, or a file with such keys; repeatable. midge's own is always there.
    #[arg(long, value_name = "FILE|KEY", help_heading = "Access")]
    pub(in crate::cli) ssh_key: Vec<String>,

    /// Make this user in the guest, with the same keys and the right to use sudo; `midge ssh` logs in as it.
    #[arg(long, value_name = "NAME", help_heading = "Access")]
    pub(in crate::cli) user: Option<String>,

    /// Put a file of this host into the guest at its first boot, owned by root, with its permissions; repeatable.
    #[arg(long, value_name = "HOST:GUEST", value_parser = values::file_for_guest, help_heading = "Access")]
    pub(in crate::cli) file: Vec<(PathBuf, String)>,

    /// User-data for cloud-init, in any format that it knows; `-` reads stdin.
    #[arg(long, visible_alias = "user-data", value_name = "FILE", help_heading = "Access")]
    pub(in crate::cli) cloud_init: Option<PathBuf>,

    /// How the guest learns its host name and keys: by systemd's credentials, the quick way, or by cloud-init.
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Access")]
    pub(in crate::cli) provision: Option<Provision>,

    /// What to do when the guest ends.
    #[arg(long, value_enum, value_name = "POLICY", help_heading = "Life")]
    pub(in crate::cli) restart: Option<Restart>,

    /// End the guest when it resets itself, instead of letting it boot again.
    #[arg(long, help_heading = "Life")]
    pub(in crate::cli) no_reboot: bool,

    /// Remove the VM when its guest ends.
    #[arg(long, help_heading = "Life")]
    pub(in crate::cli) rm: bool,

    /// Stop the VM this long after its start, such as 30m or 1h.
    #[arg(long, value_name = "TIME", value_parser = values::duration, help_heading = "Life")]
    pub(in crate::cli) ttl: Option<Duration>,

    /// What shows that the guest is ready: agent, ssh, ip, tcp:PORT or serial:REGEX.
    #[arg(long, value_name = "SIGN", help_heading = "Life")]
    pub(in crate::cli) ready: Option<Ready>,

    /// A label to find it by; repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::key_value, help_heading = "Life")]
    pub(in crate::cli) label: Vec<(String, String)>,
}

/// What `set` takes.
#[derive(Debug, Clone, Default, Args)]
#[group(required = true, multiple = true)]
pub(in crate::cli) struct SetFlags {
    /// Virtual CPUs.
    #[arg(short, long, value_name = "N")]
    pub(in crate::cli) cpus: Option<u32>,
    /// Guest memory, such as 512M or 2G; a bare number is MiB.
    #[arg(short, long, visible_alias = "ram", value_name = "SIZE")]
    pub(in crate::cli) memory: Option<Size>,
    /// Size of the VM's own disk, such as 20G; a bare number is GiB. A disk can only grow.
    #[arg(long, value_name = "SIZE", value_parser = values::disk_size)]
    pub(in crate::cli) disk: Option<Size>,
    /// Words to add to the kernel's command line; empty for none.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(in crate::cli) append: Option<String>,
    /// A CPU model of QEMU's; empty for midge's choice.
    #[arg(long, value_name = "MODEL")]
    pub(in crate::cli) cpu: Option<String>,
    /// How the guest's instructions are run.
    #[arg(long, value_enum, value_name = "HOW")]
    pub(in crate::cli) accel: Option<Accel>,
    /// The machine model.
    #[arg(long, value_enum, value_name = "MODEL")]
    pub(in crate::cli) machine: Option<Machine>,
    /// The network interfaces, in place of those there are, as with `midge create`; repeatable. Each keeps its MAC and
    /// forwarded ports.
    #[arg(long, value_name = "NETWORK")]
    pub(in crate::cli) net: Vec<Net>,
    /// The ports to forward, in place of those there are; `none` for none. Repeatable.
    #[arg(short, long, value_name = "[ADDR:]HOST:GUEST")]
    pub(in crate::cli) publish: Vec<String>,
    /// What to do when the guest ends.
    #[arg(long, value_enum, value_name = "POLICY")]
    pub(in crate::cli) restart: Option<Restart>,
    /// Stop the VM this long after its start; 0 for never.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(in crate::cli) ttl: Option<Duration>,
    /// What shows that the guest is ready; empty for the image's or kind's own sign.
    #[arg(long, value_name = "SIGN")]
    pub(in crate::cli) ready: Option<String>,
    /// A label to set, or to remove when VALUE is empty; repeatable. Allowed while the VM runs.
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::key_value)]
    pub(in crate::cli) label: Vec<(String, String)>,
}
