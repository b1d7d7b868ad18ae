//! The interfaces: their addresses on the link, and that whoever asks for their IP addresses asks anew.
//!
//! They are switched off first, so that nothing more is sent as the machine that this one was, and on again by whoever asks for the
//! addresses, last.

mod dhclient;
mod networkd;
mod route;

use core::fmt::Write as _;

use midge_identify::netlink::{Address, Message};
use midge_identify::report::{Outcome, Report, State};
use midge_identify::request::{MOST_NICS, Nic, Request};
use midge_identify::text::Line;

use crate::sys;
use route::Route;

/// Who asks for an interface's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    /// systemd-networkd(8).
    Networkd,
    /// dhclient(8), mostly by way of ifup(8).
    Dhclient(u32),
    /// NetworkManager(8).
    NetworkManager,
    /// Nobody that is known here.
    Nobody,
}

/// An interface that is worked on.
#[derive(Debug)]
struct Interface {
    nic: Nic,
    index: u32,
    name: Line,
    manager: Manager,
    /// It has its address by DHCP.
    leased: bool,
    /// What it had.
    before: Option<Address>,
    /// What it has.
    after: Option<Address>,
}

/// The interfaces of a request.
#[derive(Debug)]
pub(crate) struct Network {
    interfaces: [Option<Interface>; MOST_NICS],
    route: Option<Route>,
    mac: Outcome,
    /// How long it took to switch off and change, in microseconds.
    taken: u64,
}

impl Network {
    /// Switches the interfaces off and gives them their link-layer addresses.
    pub(crate) fn take_down(request: &Request<'_>) -> Self {
        let mut network = Self {
            interfaces: [const { None }; MOST_NICS],
            route: None,
            mac: Outcome::not_applicable(format_args!("no interface was named")),
            taken: 0,
        };
        let start = sys::microseconds();
        if !request.nics().is_empty() {
            network.mac = match network.change(request) {
                Ok(changed) => Outcome::done(format_args!("{}", changed.str())),
                Err(why) => Outcome::failed(format_args!("{}", why.str())),
            };
        }
        network.taken = sys::microseconds() - start;
        network
    }

    fn change(&mut self, request: &Request<'_>) -> Result<Line, Line> {
        let mut route = Route::open(0).map_err(|e| Line::of(format_args!("no rtnetlink socket: {e}")))?;
        for (place, nic) in self.interfaces.iter_mut().zip(request.nics()) {
            let (index, name) = route.find(nic)?;
            let (manager, leased) = manager(index, name.str());
            *place = Some(Interface { nic: *nic, index, name, manager, leased, before: None, after: None });
        }
        let failed = |what: &str, name: &Line, e| Line::of(format_args!("cannot {what} {}: {e}", name.str()));
        let mut changed = Line::default();
        for interface in self.interfaces.iter_mut().flatten() {
            let Interface { index, name, .. } = interface;
            route.ask(Message::switch(*index, false)).map_err(|e| failed("switch off", name, e))?;
            route
                .ask(Message::set_mac(*index, interface.nic.new))
                .map_err(|e| failed("set the address of", name, e))?;
            interface.before = route.forget_addresses(*index).map_err(|e| failed("clear", name, e))?;
            let _ = write!(changed, "{} ", interface.name.str());
        }
        self.route = Some(route);
        Ok(changed)
    }

    /// Has addresses asked for and waits for them; without that, the interfaces are switched on as they are. Says how it all went.
    pub(crate) fn bring_up(mut self, request: &Request<'_>, envp: *const *const u8, report: &mut Report) {
        if !request.nics().is_empty() {
            report.item("mac", &self.mac, self.taken);
        }
        if !request.renew {
            self.switch_on();
            return;
        }
        if self.mac.state == State::Failed {
            self.switch_on();
            let why = Outcome::failed(format_args!("the link-layer address was not changed"));
            report.item("address", &why, 0);
            report.item("dhcp", &why, 0);
            return;
        }
        let start = sys::microseconds();
        // From here on no address that comes is missed.
        let (dhcp, address) = match Route::open(midge_identify::netlink::RTMGRP_IPV4_IFADDR) {
            Ok(watch) => match self.renew(request, envp) {
                Ok(how) if how.is_empty() => {
                    let none = Outcome::not_applicable(format_args!("no interface had an address"));
                    (none.clone(), none)
                }
                Ok(how) => self.settle(request, &watch, &how),
                Err(why) => {
                    let failed = Outcome::failed(format_args!("{}", why.str()));
                    (failed.clone(), failed)
                }
            },
            Err(e) => {
                let failed = Outcome::failed(format_args!("no rtnetlink socket: {e}"));
                (failed.clone(), failed)
            }
        };
        // Asking and waiting for the answer are one.
        report.item("dhcp", &dhcp, 0);
        report.item("address", &address, sys::microseconds() - start);
        for address in self.interfaces.iter().flatten().filter_map(|interface| interface.after) {
            report.fact("address", format_args!("{}", core::net::Ipv4Addr::from(address.ip)));
        }
    }

    /// Those that must get an address.
    fn wanting(&mut self) -> impl Iterator<Item = &mut Interface> {
        let wants = |i: &&mut Interface| i.leased || i.before.is_some() || i.nic.address.is_some();
        self.interfaces.iter_mut().flatten().filter(wants)
    }

    /// Has addresses asked for; how, and nothing where none is wanted.
    fn renew(&mut self, request: &Request<'_>, envp: *const *const u8) -> Result<Line, Line> {
        let mut how = Line::default();
        networkd::renew(
            self.interfaces.iter().flatten().filter(|interface| interface.manager == Manager::Networkd),
            request.duid,
        )?;
        for interface in self.interfaces.iter().flatten() {
            match interface.manager {
                Manager::Networkd => {}
                Manager::Dhclient(process) => {
                    self.switch_on_one(interface)?;
                    dhclient::restart(process, envp)?;
                }
                Manager::NetworkManager => {
                    let name = interface.name.str();
                    return Err(Line::of(format_args!(
                        "NetworkManager manages {name}, which midge cannot have ask anew"
                    )));
                }
                Manager::Nobody => self.switch_on_one(interface)?,
            }
        }
        for interface in self.wanting() {
            let name = interface.name.str();
            if !interface.leased && interface.nic.address.is_none() {
                return Err(Line::of(format_args!(
                    "the address of {name} is set in the guest, not leased: it is another machine's too"
                )));
            }
            let by = match interface.manager {
                Manager::Networkd => "systemd-networkd",
                Manager::Dhclient(_) => "dhclient",
                Manager::NetworkManager | Manager::Nobody => "nobody",
            };
            let _ = write!(how, "{name} by {by} ");
        }
        Ok(how)
    }

    /// Waits for the addresses.
    fn settle(&mut self, request: &Request<'_>, watch: &Route, how: &Line) -> (Outcome, Outcome) {
        let Some(wait) = request.wait else {
            let pending = Outcome::pending(format_args!("{}", how.str()));
            return (pending.clone(), pending);
        };
        let given_up = sys::now() + wait;
        let is_right = |i: &Interface| i.after.is_some_and(|a| i.nic.address.is_none_or(|ip| ip == a.ip));
        while self.wanting().any(|interface| !is_right(interface)) {
            let Some(left) = given_up.checked_sub(sys::now()).filter(|left| *left > 0) else { break };
            let heard = watch.addresses(left, |address| {
                for interface in self.interfaces.iter_mut().flatten() {
                    if interface.index == address.interface {
                        interface.after = Some(address);
                    }
                }
            });
            if let Err(e) = heard {
                let failed = Outcome::failed(format_args!("cannot hear of addresses: {e}"));
                return (failed.clone(), failed);
            }
        }
        let mut all = Line::default();
        for interface in self.wanting() {
            let name = interface.name.str();
            let failed = match interface.after {
                None => Outcome::failed(format_args!("{name} got no address within {wait} ms")),
                Some(got) if !is_right(interface) => Outcome::failed(format_args!(
                    "{name} got {}, which is not the one that it is to have",
                    core::net::Ipv4Addr::from(got.ip)
                )),
                Some(got) => {
                    let _ = write!(all, "{name} {} ", core::net::Ipv4Addr::from(got.ip));
                    continue;
                }
            };
            return (failed.clone(), failed);
        }
        (Outcome::done(format_args!("{}", how.str())), Outcome::done(format_args!("{}", all.str())))
    }

    fn switch_on(&self) {
        for interface in self.interfaces.iter().flatten() {
            // What stays off is told by the address that does not come.
            let _ = self.switch_on_one(interface);
        }
    }

    fn switch_on_one(&self, interface: &Interface) -> Result<(), Line> {
        let failed = |e| Line::of(format_args!("cannot switch on {}: {e}", interface.name.str()));
        match &self.route {
            Some(route) => route.ask(Message::switch(interface.index, true)).map_err(failed),
            None => Ok(()),
        }
    }
}

/// Who asks for an interface's addresses, and whether it has one by DHCP.
fn manager(index: u32, name: &str) -> (Manager, bool) {
    if networkd::manages(index) {
        return (Manager::Networkd, networkd::has_lease(index));
    }
    if let Some(process) = dhclient::process(name) {
        return (Manager::Dhclient(process), true);
    }
    if sys::exists(c"/run/NetworkManager/devices") {
        return (Manager::NetworkManager, true);
    }
    (Manager::Nobody, false)
}
