//! From the DHCP server's answer on the wire to the end of `midge ip --wait`, which says the address.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netbr::dhcp::message::{Datagram, Kind, Side};
use netbr::packet::{self, FRAME_ROOM, Filter, Options};
use netbr::{Mac, Namespace};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use crate::common::lan::Lan;
use crate::common::{PATIENCE, Sandbox};
use crate::support::{Report, Samples, rounds};

pub fn measure(report: &mut Report) {
    let mut sandbox = Sandbox::new();
    let lan = Lan::new(sandbox.path());
    sandbox.enter(&lan.host);
    let host = Namespace::named(lan.host.name()).unwrap();
    sandbox.hello("guest", &["--net", "bridge=br0"]);
    let mac: Mac = sandbox.inspect("guest")["record"]["macs"][0].as_str().unwrap().parse().unwrap();
    let mut known =
        Samples::new("address: server's answer on the wire, to the end of `midge ip --wait`", "ms");
    // The first round fills the caches.
    for round in 0..=rounds(30) {
        let wire = Wire::open(&host, "lan0");
        sandbox.ok(&["start", "guest"]);
        let ip = sandbox.spawn(&["ip", "guest", "--wait", "300s", "-4"]);
        let done = ip.wait();
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(done.code, 0, "{}", done.stderr);
        let (answered, address) = wire.acknowledged(mac);
        assert_eq!(done.stdout.trim(), address);
        if round > 0 {
            known.time(ended.checked_sub(answered).unwrap());
        }
        sandbox.ok(&["kill", "guest"]);
    }
    report.promise("DHCP ACK on the wire to the end of `midge ip --wait`", known.median(), 5.0, "ms");
    report.row(known);
}

/// A packet socket whose frames bear the time at which the kernel received them.
struct Wire(OwnedFd);

impl Wire {
    fn open(namespace: &Namespace, interface: &str) -> Self {
        let socket = packet::open(namespace, interface, Options::new(Filter::dhcp())).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).unwrap();
        Self(socket)
    }

    /// When the first acknowledgement for a MAC came, since the epoch, and what it gives.
    fn acknowledged(&self, mac: Mac) -> (Duration, String) {
        loop {
            let patience = PollTimeout::try_from(PATIENCE).unwrap();
            let ready = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], patience).unwrap();
            assert!(ready > 0, "there was no answer on the wire");
            let mut frame = [0; FRAME_ROOM];
            let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
            let mut parts = [IoSliceMut::new(&mut frame)];
            let flags = MsgFlags::empty();
            let received = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags).unwrap();
            let len = received.bytes;
            let time = received.cmsgs().unwrap().find_map(|message| match message {
                ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                _ => None,
            });
            if let Ok(Datagram { message, .. }) = Datagram::parse(&frame[..len], Side::Client)
                && message.kind() == Some(Kind::Ack)
                && message.chaddr == mac
            {
                return (time.expect("the kernel tells the time"), message.yiaddr.to_string());
            }
        }
    }
}
