//! `hello`, the reference unikernel: boots, gets an address, answers pings and web requests, and ends as it is told.
//!
//! Order of events: `arch::*::boot` (first instruction to Rust) → [`main`] → [`net::Net`] and [`console::Input`] in turn,
//! idle in between, for ever. One CPU, no threads; interrupts only wake it up.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod console;
mod mem;
mod net;
mod nic;
mod panic;
mod server;
mod virtio;

use core::time::Duration;

use hello::cmdline;
use hello::command::{Command, HELP};

use crate::arch::{clock, interrupts, power, serial};
use crate::console::Input;
use crate::net::Net;

/// Version of the unikernel.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Time that DHCP gets before `[init done]` is said without an address.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(5);
/// Longest sleep.
const LONGEST_IDLE: Duration = Duration::from_secs(4);

/// What the boot code found out.
struct Machine {
    memory_mib: u64,
    cmdline: &'static str,
}

/// All that runs.
fn main(machine: &Machine) -> ! {
    println!("hello {VERSION} (midge reference unikernel)");
    println!("hello: memory {} MiB", machine.memory_mib);
    let options = cmdline::parse(machine.cmdline);

    interrupts::init();
    serial::enable_interrupt();
    clock::calibrate();
    let mut input = Input::new();
    let mut net = Net::start(&options);
    while let Some(net) = &mut net {
        poll(Some(net), &mut input, machine);
        if net.address().is_some() {
            break;
        }
        if clock::now() > ADDRESS_PATIENCE {
            println!("hello: no address: DHCP has not answered, still asking");
            break;
        }
        sleep(Some(net));
    }
    println!("[init done]");

    if let Some(command) = options.command {
        execute(command);
    }
    loop {
        poll(net.as_mut(), &mut input, machine);
        sleep(net.as_mut());
    }
}

/// Does what is to be done now.
fn poll(net: Option<&mut Net>, input: &mut Input, machine: &Machine) {
    let commands = [input.poll(), net.and_then(|net| net.poll(machine))];
    commands.into_iter().flatten().for_each(execute);
}

/// Sleeps until there is more to do.
fn sleep(net: Option<&mut Net>) {
    let limit = net.and_then(Net::delay).unwrap_or(LONGEST_IDLE).min(LONGEST_IDLE);
    if !limit.is_zero() {
        interrupts::idle(limit);
    }
}

/// Carries a command out. Returns only from [`Command::Help`] and when the machine lacks what it takes.
fn execute(command: Command) {
    match command {
        Command::Exit(code) => {
            power::exit(code);
            println!("hello: cannot exit: the machine has no isa-debug-exit device at port 0xf4");
        }
        Command::Poweroff => {
            power::poweroff();
            // Without ACPI this is the only way to stop QEMU.
            power::exit(0);
            println!(
                "hello: cannot power off: the machine has neither ACPI nor an isa-debug-exit device at port 0xf4"
            );
        }
        Command::Reset => power::reset(),
        Command::Panic => panic!("as asked"),
        Command::Crash => power::crash(),
        Command::Help => println!("{HELP}"),
    }
}
