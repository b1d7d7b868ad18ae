mod nft_lab;
use netbr::Mac;
use netbr::veil::{Identity, Veil};
use nft_lab::Net;
#[test]
fn x() {
    let net = Net::new("x");
    net.ip("tuntap add tap0 mode tap");
    let mut nft = netbr::nft::Nft::open(&net.namespace).unwrap();
    let v = Veil {
        port: "tap0".into(),
        inner: Identity {
            mac: Mac::local([0, 0, 9]),
            ipv4: Some([10, 0, 0, 9].into()),
            ipv6: vec!["fd00::9".parse().unwrap()],
        },
        outer: Identity {
            mac: Mac::local([0, 0, 1]),
            ipv4: Some([10, 0, 0, 1].into()),
            ipv6: vec!["fd00::1".parse().unwrap()],
        },
    };
    for _ in 0..10 {
        let t = std::time::Instant::now();
        v.raise(&mut nft).unwrap();
        eprintln!("{:?}", t.elapsed());
    }
    net.ip("link del tap0");
    eprintln!("{}", v.raise(&mut nft).unwrap_err());
    eprintln!("{:?}", v.raise(&mut nft).unwrap_err());
    eprintln!("{}", net.ruleset());
}
