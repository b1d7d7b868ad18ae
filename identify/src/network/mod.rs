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
use midge_identify::texts;

use crate::files;
use crate::sys;
use route::Route;

/// Who asks for an interface's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    /// systemd-networkd(8).
    Networkd,
    /// dhclient(8), mostly by way of ifup(8).
    Dhclient(u32),
    /// NetworkManager(8), which cannot be told here.
    Other,
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
    /// Its DHCP server knows it by its DUID.
    duid: bool,
    /// How many IPv4 addresses it had.
    had: usize,
    /// One that does not come of a lease: after this, two machines would have it.
    is_set: bool,
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
        let failed = |what: &str, name: &Line, e| Line::of(format_args!("cannot {what} {}: {e}", name.str()));
        for (place, nic) in self.interfaces.iter_mut().zip(request.nics()) {
            let (index, name) = route.find(nic)?;
            let (manager, leased) = manager(index, name.str());
            let duid = manager == Manager::Networkd && networkd::uses_duid(index);
            // Before it is switched off: whoever manages it takes addresses away then.
            let (mut had, mut permanent) = (0, 0);
            let count = |address: Address| {
                had += 1;
                permanent += usize::from(address.is_permanent);
            };
            route.each_address(index, count).map_err(|e| failed("ask about", &name, e))?;
            // A lease may be for ever too.
            let is_set = has_set_ipv6(index) || if leased { permanent > 0 && had > 1 } else { had > 0 };
            let nic = *nic;
            *place = Some(Interface { nic, index, name, manager, leased, duid, had, is_set, after: None });
        }
        let mut changed = Line::default();
        for interface in self.interfaces.iter_mut().flatten() {
            let Interface { index, name, .. } = interface;
            route.ask(Message::switch(*index, false)).map_err(|e| failed("switch off", name, e))?;
            route
                .ask(Message::set_mac(*index, interface.nic.new))
                .map_err(|e| failed("set the address of", name, e))?;
            route.forget_addresses(*index).map_err(|e| failed("clear", name, e))?;
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
            // What is switched off stays so: on, it would speak as the machine that this one was.
            let why = Outcome::failed(format_args!("the link-layer address was not changed"));
            report.item("address", &why, 0);
            report.item("dhcp", &why, 0);
            return;
        }
        let start = sys::microseconds();
        let mut asked = 0;
        // From here on no address that comes is missed.
        let (dhcp, address) = match Route::open(midge_identify::netlink::RTMGRP_IPV4_IFADDR) {
            Ok(watch) => match self.renew(request, envp).inspect(|_| asked = sys::microseconds() - start) {
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
        // The one is the asking, the other the waiting.
        report.item("dhcp", &dhcp, asked);
        report.item("address", &address, sys::microseconds() - start - asked);
        for address in self.interfaces.iter().flatten().filter_map(|interface| interface.after) {
            report.fact("address", format_args!("{}", core::net::Ipv4Addr::from(address.ip)));
        }
    }

    /// Those that must get an address.
    fn wanting(&mut self) -> impl Iterator<Item = &mut Interface> {
        let wants = |i: &&mut Interface| i.leased || i.had > 0 || i.is_set || i.nic.address.is_some();
        self.interfaces.iter_mut().flatten().filter(wants)
    }

    /// Has addresses asked for; how, and nothing where none is wanted.
    fn renew(&mut self, request: &Request<'_>, envp: *const *const u8) -> Result<Line, Line> {
        let mut how = Line::default();
        if let Some(set) = self.interfaces.iter().flatten().find(|interface| interface.is_set) {
            // It stays switched off: on, there would be two machines of one address.
            let name = set.name.str();
            return Err(Line::of(format_args!(
                "an address of {name} is set in the guest, not leased: it is another machine's too"
            )));
        }
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
                Manager::Other => {
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
            let by = match interface.manager {
                Manager::Networkd => "systemd-networkd",
                Manager::Dhclient(_) => "dhclient",
                Manager::Other | Manager::Nobody => "nobody",
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

/// Whether an interface has an IPv6 address that was set.
fn has_set_ipv6(index: u32) -> bool {
    let mut buffer = [0; 8192];
    texts::has_set_ipv6(files::read_text(c"/proc/net/if_inet6", &mut buffer), index)
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
        return (Manager::Other, true);
    }
    (Manager::Nobody, false)
}
