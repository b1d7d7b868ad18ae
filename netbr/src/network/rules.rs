//! The table of a network.

use super::{Plan, Protocol, User};
use crate::nft::field::{DESTINATION_PORT, IPV4_DESTINATION, IPV4_SOURCE};
use crate::nft::{Base, Chain, Family, Hook, Kind, Rule, Table, Transport, priority};

/// The port of DHCP's servers.
const DHCP: u16 = 67;

/// What the tables' names begin with. A network may be called as somebody's table is: `filter`, for one.
const TABLE: &str = "midge-nat-";

/// The name of a network's table.
pub(super) fn table_name(network: &str) -> String {
    format!("{TABLE}{network}")
}

/// The table of a network and its users. It names interfaces, so it does not matter whether they are there.
pub(super) fn table(plan: &Plan, users: &[User]) -> Table {
    let mut table = Table::new(Family::Inet, &table_name(&plan.name));
    let base = |kind, hook, priority| Base { kind, hook, priority };
    table.chains = vec![
        Chain::base("guard", base(Kind::Filter, Hook::Prerouting, priority::RAW), guard(plan)),
        Chain::base("input", base(Kind::Filter, Hook::Input, priority::FILTER), input(plan)),
        Chain::base("forward", base(Kind::Filter, Hook::Forward, priority::FILTER), forward(plan)),
        Chain::base(
            "prerouting",
            base(Kind::Nat, Hook::Prerouting, priority::DSTNAT),
            forwards(users, false),
        ),
        Chain::base("output", base(Kind::Nat, Hook::Output, priority::DSTNAT), forwards(users, true)),
        Chain::base("postrouting", base(Kind::Nat, Hook::Postrouting, priority::SRCNAT), postrouting(plan)),
    ];
    table
}

/// The bridge lets addresses of 127.0.0.0/8 pass (`route_localnet`), for what the host sends. Nobody else's are let in, or guests would
/// reach what listens on the host for itself.
fn guard(plan: &Plan) -> Vec<Rule> {
    let loopback =
        |field| Rule::new().input(&plan.name).ipv4().is_in_subnet(field, [127, 0, 0, 0].into(), 8).drop();
    vec![loopback(IPV4_DESTINATION), loopback(IPV4_SOURCE)]
}

/// DHCP is answered at each guest's port. The host, where nobody listens, would answer that nobody does.
fn input(plan: &Plan) -> Vec<Rule> {
    let udp = Rule::new().input(&plan.name).transport(Transport::Udp);
    vec![udp.is(DESTINATION_PORT, &DHCP.to_be_bytes()).drop()]
}

/// Guests reach what they like; to them comes what belongs to it, and what is forwarded.
fn forward(plan: &Plan) -> Vec<Rule> {
    let bridge = &plan.name;
    let mut rules = Vec::new();
    if plan.isolated {
        rules.push(Rule::new().input(bridge).output(bridge).drop());
    }
    rules.extend([
        Rule::new().input(bridge).accept(),
        Rule::new().output(bridge).established().accept(),
        Rule::new().output(bridge).destination_rewritten().accept(),
        Rule::new().output(bridge).drop(),
    ]);
    rules
}

/// `own` for the host's own packets, which come by no device.
fn forwards(users: &[User], own: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for user in users {
        for forward in &user.forwards {
            let address = forward.host_addr;
            if address.is_loopback() && !own {
                continue;
            }
            let rule = Rule::new().ipv4();
            let rule = if address.is_unspecified() {
                rule.destination_is_local()
            } else {
                rule.is(IPV4_DESTINATION, &address.octets())
            };
            let rule = rule.transport(match forward.protocol {
                Protocol::Tcp => Transport::Tcp,
                Protocol::Udp => Transport::Udp,
            });
            let rule = rule.is(DESTINATION_PORT, &forward.host_port.to_be_bytes());
            rules.push(rule.dnat(forward.guest()).comment(&user.id));
        }
    }
    rules
}

/// What guests send to elsewhere gets the host's address. What comes to them by a forwarded port gets the bridge's where the answer
/// would not come back otherwise: from 127.0.0.1, and from guests of the same network.
fn postrouting(plan: &Plan) -> Vec<Rule> {
    let (bridge, subnet) = (&plan.name, plan.subnet);
    let from_guests = |rule: Rule| rule.ipv4().is_in_subnet(IPV4_SOURCE, subnet.base(), subnet.prefix());
    vec![
        from_guests(Rule::new().not_output(bridge)).masquerade(),
        Rule::new().output(bridge).ipv4().is_in_subnet(IPV4_SOURCE, [127, 0, 0, 0].into(), 8).masquerade(),
        // Only those: where br_netfilter is loaded, what guests send each other over the bridge comes by here, too.
        from_guests(Rule::new().output(bridge).destination_rewritten()).masquerade(),
    ]
}
