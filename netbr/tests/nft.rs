//! What reaches the kernel, as nft(8) lists it, and what the kernel answers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod nft_lab;

use std::net::{Ipv4Addr, SocketAddrV4};

use netbr::nft::field::{DESTINATION_PORT, ETHER_DESTINATION, ETHER_SOURCE, IPV4_DESTINATION, IPV4_SOURCE};
use netbr::nft::{
    Base, Batch, Chain, EtherType, Family, Hook, Kind, Nft, NftError, Rule, Set, Table, TableEntry,
    Transport, Type, Verdict, priority,
};
use nft_lab::Net;
use nft_lab::sys::as_nobody;

fn chain(kind: Kind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain::base("way", Base { kind, hook, priority }, rules)
}

fn listed(net: &Net, table: &Table) -> String {
    Nft::open(&net.namespace).unwrap().put(table).unwrap();
    net.ruleset()
}

#[test]
fn rules_for_routed_packets_are_what_nft_writes() {
    let net = Net::new("nft");
    let mut table = Table::new(Family::Inet, "t");
    let nat = Rule::new().ipv4().destination_is_local().transport(Transport::Tcp);
    table.chains = vec![
        Chain {
            name: "pre".into(),
            ..chain(
                Kind::Nat,
                Hook::Prerouting,
                priority::DSTNAT,
                vec![
                    nat.is(DESTINATION_PORT, &80_u16.to_be_bytes())
                        .dnat(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 8080))
                        .comment("web"),
                    Rule::new()
                        .ipv4()
                        .is(IPV4_DESTINATION, &[192, 0, 2, 1])
                        .transport(Transport::Udp)
                        .is(DESTINATION_PORT, &53_u16.to_be_bytes())
                        .dnat(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 53)),
                ],
            )
        },
        Chain {
            name: "post".into(),
            ..chain(
                Kind::Nat,
                Hook::Postrouting,
                priority::SRCNAT,
                vec![
                    Rule::new()
                        .not_output("br0")
                        .ipv4()
                        .is_in_subnet(IPV4_SOURCE, [10, 0, 0, 9].into(), 24)
                        .masquerade(),
                    Rule::new().output("br0").destination_rewritten().masquerade(),
                ],
            )
        },
        Chain {
            name: "fwd".into(),
            ..chain(
                Kind::Filter,
                Hook::Forward,
                priority::FILTER,
                vec![
                    Rule::new().input("br0").accept(),
                    Rule::new().output("br0").established().accept(),
                    Rule::new().not_input("br0").count().verdict(Verdict::Jump("more")),
                ],
            )
        },
        Chain { name: "out".into(), ..chain(Kind::Filter, Hook::Output, 7, vec![]) },
        Chain {
            name: "in".into(),
            ..chain(
                Kind::Filter,
                Hook::Input,
                priority::RAW,
                vec![Rule::new().transport(Transport::Udp).verdict(Verdict::Goto("more"))],
            )
        },
        Chain::regular("more", vec![Rule::new().is_not(DESTINATION_PORT, &1_u16.to_be_bytes()).drop()]),
    ];
    let expected = r#"table inet t {
	chain pre {
		type nat hook prerouting priority dstnat; policy accept;
		meta nfproto ipv4 fib daddr type local tcp dport 80 dnat ip to 10.0.0.1:8080 comment "web"
		ip daddr 192.0.2.1 udp dport 53 dnat ip to 10.0.0.2:53
	}

	chain post {
		type nat hook postrouting priority srcnat; policy accept;
		oifname != "br0" ip saddr 10.0.0.0/24 masquerade
		oifname "br0" ct status dnat masquerade
	}

	chain fwd {
		type filter hook forward priority filter; policy accept;
		iifname "br0" accept
		oifname "br0" ct state established,related accept
		iifname != "br0" counter packets 0 bytes 0 jump more
	}

	chain out {
		type filter hook output priority filter + 7; policy accept;
	}

	chain in {
		type filter hook input priority raw; policy accept;
		meta l4proto udp goto more
	}

	chain more {
		th dport != 1 drop
	}
}
"#;
    assert_eq!(listed(&net, &table), expected);
}

#[test]
fn rules_for_a_device_are_what_nft_writes() {
    let net = Net::new("nft");
    net.ip("link add tap0 type veth peer name other");
    let mac = |low| vec![2, 0, 0, 0, 0, low];
    let mut table = Table::new(Family::Netdev, "t");
    table.sets = vec![
        Set::map("macs", Type::Ether, Type::Ether, [(mac(1), mac(2))]),
        Set::map("ips", Type::Ipv4, Type::Ipv4, (0..=255).map(|n| (vec![10, 0, 0, n], vec![10, 0, 1, n]))),
        Set::of("few", Type::Ipv4, [vec![192, 0, 2, 1]]),
    ];
    table.chains = vec![
        Chain {
            name: "from".into(),
            ..chain(
                Kind::Filter,
                Hook::Ingress("tap0".to_owned()),
                -5,
                vec![
                    Rule::new().rewrite(ETHER_SOURCE, "macs"),
                    Rule::new().replace(ETHER_DESTINATION, &mac(2), &mac(1)),
                    Rule::new().ether_type(EtherType::Ipv4).rewrite(IPV4_SOURCE, "ips"),
                    Rule::new().ether_type(EtherType::Ipv4).is_in(IPV4_DESTINATION, "few").drop(),
                ],
            )
        },
        Chain { name: "to".into(), ..chain(Kind::Filter, Hook::Egress("tap0".to_owned()), 0, vec![]) },
    ];
    let text = listed(&net, &table);
    for line in [
        "type filter hook ingress device \"tap0\" priority filter - 5; policy accept;",
        "type filter hook egress device \"tap0\" priority filter; policy accept;",
        "elements = { 02:00:00:00:00:01 : 02:00:00:00:00:02 }",
        "elements = { 192.0.2.1 }",
        "10.0.0.255 : 10.0.1.255",
        "ip saddr set ip saddr map @ips",
        "ip daddr @few drop",
        "@ll,48,48 set @ll,48,48 map @macs",
    ] {
        assert!(text.contains(line), "`{line}` is not in\n{text}");
    }
}

#[test]
fn a_batch_is_applied_as_a_whole_or_not_at_all() {
    let net = Net::new("nft");
    let mut nft = Nft::open(&net.namespace).unwrap();
    let good = Table::new(Family::Inet, "good");
    let mut bad = Table::new(Family::Inet, "bad");
    bad.chains = vec![Chain::regular("way", vec![Rule::new().verdict(Verdict::Jump("nowhere"))])];
    let mut batch = Batch::new();
    batch.replace(&good);
    batch.replace(&bad);
    let error = nft.apply(&batch).unwrap_err();
    assert!(error.to_string().contains("add a rule to the chain way of the table inet bad"), "{error}");
    assert_eq!(net.ruleset(), "");

    nft.put(&good).unwrap();
    let mut again = Batch::new();
    again.create(&good);
    assert!(matches!(nft.apply(&again), Err(NftError::Refused { .. })));
    nft.apply(&Batch::new()).unwrap();
    nft.remove(Family::Inet, "bad").unwrap();
    assert_eq!(
        nft.tables(Family::Inet).unwrap(),
        [TableEntry { family: Family::Inet, name: "good".to_owned() }]
    );
    assert!(nft.tables(Family::Netdev).unwrap().is_empty());
    nft.remove(Family::Inet, "good").unwrap();
    nft.remove(Family::Inet, "good").unwrap();
    assert_eq!(net.ruleset(), "");
}

#[test]
fn a_large_table_is_replaced_in_one_batch_and_listed() {
    const RULES: usize = 3000;
    let net = Net::new("nft");
    let mut nft = Nft::open(&net.namespace).unwrap();
    let mut table = Table::new(Family::Inet, "large");
    let rules = (0..RULES).map(|n| Rule::new().input(&format!("tap{n}")).output("br0").accept()).collect();
    table.chains = vec![chain(Kind::Filter, Hook::Forward, priority::FILTER, rules)];
    nft.put(&table).unwrap();
    nft.put(&table).unwrap();
    let found = nft.rules(Family::Inet, "large").unwrap();
    assert_eq!(found.len(), RULES);
    let last = &found[RULES - 1];
    assert_eq!(
        (&*last.chain, &last.inputs[..], &last.outputs[..]),
        ("way", &["tap2999".to_owned()][..], &["br0".to_owned()][..])
    );
    assert!(nft.rules(Family::Inet, "none").unwrap().is_empty());
    let chains = nft.chains(Family::Inet).unwrap();
    assert_eq!(chains.len(), 1);
    assert_eq!(
        (chains[0].hook, chains[0].kind.as_deref(), chains[0].drops),
        (Some(2), Some("filter"), false)
    );
}

#[test]
fn without_privilege_there_is_reading_but_no_changing() {
    let net = Net::new("nft");
    let nft = Nft::open(&net.namespace).unwrap();
    let table = Table::new(Family::Inet, "t");
    as_nobody(move || {
        let mut nft = nft;
        let error = nft.put(&table).unwrap_err();
        assert!(matches!(error, NftError::Permission { .. }), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
    assert_eq!(net.ruleset(), "");
}
