//! The network: one interface, its address by DHCP, and the web server on it. Pings are smoltcp's to answer.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::time::Duration;

use hello::cmdline::Options;
use hello::command::Command;
use hello::page;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device as _, TxToken as _};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpOption, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, IpCidr, Ipv4Address, Ipv4Cidr,
};

use crate::arch::{clock, devices};
use crate::nic::{Link, Nic};
use crate::server::Server;
use crate::{Machine, VERSION, println};

/// First and largest wait for a DHCP answer. A virtual network answers in milliseconds; when it does not, its server is
/// probably just starting.
const DHCP_RETRY: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(1);
/// DHCP's option 12, the host name.
const HOST_NAME: u8 = 12;
/// How often a device that cannot wake the CPU is looked at.
const POLL: Duration = Duration::from_millis(1);

/// The network.
pub struct Net {
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    dhcp: SocketHandle,
    address: Option<Ipv4Cidr>,
    server: Server,
    name: &'static str,
}

fn now() -> Instant {
    Instant::from_micros(i64::try_from(clock::now().as_micros()).unwrap_or(i64::MAX))
}

impl Net {
    /// Finds the network device and starts to ask for an address. Says what was found.
    pub fn start(options: &Options<'static>) -> Option<Self> {
        let Some((place, transport)) = devices::find_net(&options.mmio) else {
            println!("hello: no virtio-net device");
            return None;
        };
        let nic = match Nic::new(transport) {
            Ok(nic) => nic,
            Err(error) => {
                println!("hello: virtio-net {place} does not start: {error}");
                return None;
            }
        };
        let polled = if nic.interrupts() { "" } else { ", polled" };
        println!("hello: virtio-net {place} mac {}{polled}", Mac(nic.mac()));

        let mut config = Config::new(EthernetAddress(nic.mac()).into());
        config.random_seed = clock::ticks();
        let mut link = Link(RefCell::new(nic));
        let interface = Interface::new(config, &mut link, now());
        let mut sockets = SocketSet::new(Vec::new());
        let mut dhcp = dhcpv4::Socket::new();
        let mut retry = dhcp.get_retry_config();
        retry.discover_timeout = DHCP_RETRY;
        retry.initial_request_timeout = DHCP_RETRY;
        dhcp.set_retry_config(retry);
        dhcp.set_outgoing_options(Box::leak(Box::new([DhcpOption {
            kind: HOST_NAME,
            data: options.name.as_bytes(),
        }])));
        let dhcp = sockets.add(dhcp);
        Some(Self {
            link,
            interface,
            sockets,
            dhcp,
            address: None,
            server: Server::new(),
            name: options.name,
        })
    }

    /// The address, once there is one.
    pub fn address(&self) -> Option<Ipv4Cidr> {
        self.address
    }

    /// Does all that is to be done now; gives a command that came in.
    pub fn poll(&mut self, machine: &Machine) -> Option<Command> {
        let now = now();
        self.link.0.get_mut().ack();
        self.interface.poll_maintenance(now);
        self.server.top_up(&mut self.sockets, now);
        loop {
            match self.interface.poll_ingress_single(now, &mut self.link, &mut self.sockets) {
                PollIngressSingleResult::None => break,
                PollIngressSingleResult::PacketProcessed => {}
                PollIngressSingleResult::SocketStateChanged => self.server.top_up(&mut self.sockets, now),
            }
        }
        self.poll_dhcp();
        let name = self.name;
        let address = self.address;
        let command = self.server.serve(&mut self.sockets, now, |requests| {
            page::render(&page::Facts {
                name,
                version: VERSION,
                uptime: clock::now(),
                address: format_args!("{}", Address(address)),
                memory_mib: machine.memory_mib,
                cmdline: machine.cmdline,
                requests,
            })
        });
        self.interface.poll_egress(now, &mut self.link, &mut self.sockets);
        self.server.sweep(&mut self.sockets);
        command
    }

    /// How long nothing will be to do unless something comes in.
    pub fn delay(&mut self) -> Option<Duration> {
        let now = now();
        let nic = self.link.0.get_mut();
        if nic.is_congested() {
            return Some(Duration::ZERO);
        }
        let polling = (!nic.interrupts()).then_some(POLL);
        let stack = self.interface.poll_at(now, &self.sockets);
        let at = [stack, self.server.poll_at()].into_iter().flatten().min();
        let wait = at.map(|at| if at > now { Duration::from(at - now) } else { Duration::ZERO });
        [polling, wait].into_iter().flatten().min()
    }

    /// Asks the network who has `target`. Asked about one's own address, it tells all who listen that it is in use
    /// (RFC 5227, section 2.3). Asked about the gateway, it makes the first answer to somebody there arrive: the stack drops a packet
    /// whose next hop it has yet to ask for.
    fn send_arp(&mut self, own: Ipv4Address, target: Ipv4Address) {
        let mac = EthernetAddress(self.link.0.get_mut().mac());
        let arp = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: mac,
            source_protocol_addr: own,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        };
        let ethernet = EthernetRepr {
            src_addr: mac,
            dst_addr: EthernetAddress::BROADCAST,
            ethertype: EthernetProtocol::Arp,
        };
        // With a full queue it is left out: nothing depends on it.
        if let Some(token) = self.link.transmit(now()) {
            token.consume(ethernet.buffer_len() + arp.buffer_len(), |bytes| {
                let mut frame = EthernetFrame::new_unchecked(bytes);
                ethernet.emit(&mut frame);
                arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
            });
        }
    }

    fn poll_dhcp(&mut self) {
        match self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.dhcp).poll() {
            None => {}
            Some(dhcpv4::Event::Configured(config)) => {
                let (address, gateway) = (config.address, config.router);
                self.interface.update_ip_addrs(|addresses| {
                    addresses.clear();
                    // There is room for one, as the list is empty.
                    let _ = addresses.push(IpCidr::Ipv4(address));
                });
                let routes = self.interface.routes_mut();
                match gateway {
                    None => {
                        routes.remove_default_ipv4_route();
                        println!("hello: address {address}");
                    }
                    Some(gateway) => {
                        // There is room for one: it replaces its predecessor.
                        let _ = routes.add_default_ipv4_route(gateway);
                        println!("hello: address {address} gateway {gateway}");
                    }
                }
                self.address = Some(address);
                let own = address.address();
                self.send_arp(own, own);
                if let Some(gateway) = gateway {
                    self.send_arp(own, gateway);
                }
            }
            Some(dhcpv4::Event::Deconfigured) => {
                self.interface.update_ip_addrs(|addresses| _ = addresses.pop());
                self.interface.routes_mut().remove_default_ipv4_route();
                if self.address.take().is_some() {
                    println!("hello: address lost");
                }
            }
        }
    }
}

/// A MAC address as QEMU and Linux write it.
struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

/// An address or the lack of one, for people.
struct Address(Option<Ipv4Cidr>);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("none"),
        }
    }
}
