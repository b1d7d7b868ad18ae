//! The texts of systemd's credentials.
//!
//! systemd 252 takes little by credentials of its own: SSH keys for root (`ssh.authorized_keys.root`), and lines for
//! systemd-sysusers(8) and systemd-tmpfiles(8), which run before `sysinit.target` and thus before any ordinary service. Everything
//! else is told in their lines, but for networks: `network.network.NAME`, which systemd-network-generator(8) makes a file of
//! systemd.network(5) from since systemd 256, as a unit in the images that midge builds does for systemd 252.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Told;
use crate::spec::{Kind, Mac, Net, VmSpec};

/// The SSH keys of root: systemd's own tmpfiles.d/provision.conf writes them where no such file is yet.
const KEYS: &str = "ssh.authorized_keys.root";
/// Lines of tmpfiles.d(5).
const FILES: &str = "tmpfiles.extra";
/// Lines of sysusers.d(5).
const USERS: &str = "sysusers.extra";
/// Files of systemd.network(5). The first that matches an interface counts, in the order of their names: before netplan's, which are
/// `10-netplan-*`. (QEMU's fw_cfg takes names of at most 55 bytes, docs/specs/fw_cfg.rst, and 27 stand before this one.)
const NETWORKS: &str = "network.network.05-midge";

/// The names of the credentials for a VM.
#[must_use]
pub fn names(spec: &VmSpec) -> Vec<String> {
    let mut names = vec![KEYS.to_owned(), FILES.to_owned()];
    names.extend(spec.user.as_ref().map(|_| USERS.to_owned()));
    let fixed = spec.nets.iter().enumerate().filter(|(_, net)| net.fixed_address().is_some());
    names.extend(fixed.map(|(index, _)| format!("{NETWORKS}{index}")));
    names
}

/// The credentials, in the order of [`names`].
pub(super) fn contents(told: &Told<'_>) -> Vec<(String, Vec<u8>)> {
    let mut texts = vec![authorized_keys(told), tmpfiles(told)];
    texts.extend(told.spec.user.as_ref().map(|user| sysusers(user)));
    texts.extend(told.spec.nets.iter().zip(told.macs).filter_map(|(net, mac)| network(net, *mac)));
    names(told.spec).into_iter().zip(texts.into_iter().map(String::into_bytes)).collect()
}

/// The file for an interface with a fixed address; none for others, which the image's own file lets ask by DHCP.
fn network(net: &Net, mac: Mac) -> Option<String> {
    let Net::Bridge { ip: Some(ip), gateway, dns, .. } = net else { return None };
    let mut text = format!("[Match]\nMACAddress={mac}\n\n[Network]\nAddress={ip}\n");
    text.extend(gateway.iter().map(|gateway| format!("Gateway={gateway}\n")));
    text.extend(dns.iter().map(|server| format!("DNS={server}\n")));
    Some(text)
}

fn authorized_keys(told: &Told<'_>) -> String {
    told.keys.iter().fold(String::new(), |text, key| text + key + "\n")
}

/// `u` makes a user with this number, or another where it is taken; 1000 is the first of ordinary users (Debian Policy, 9.2.2). `m` makes
/// it a member of a group, here of those that may read the system's logs.
fn sysusers(user: &str) -> String {
    format!("u {user} 1000 \"\" /home/{user} /bin/bash\nm {user} adm\nm {user} systemd-journal\n")
}

/// `f+` writes a file at each boot, `f` where there is none; `~` says that the text is base64.
fn tmpfiles(told: &Told<'_>) -> String {
    let mut lines = String::from("# By midge: tmpfiles.d(5)\n");
    if told.spec.kind == Kind::Linux {
        lines.push_str(&format!("f+ /etc/hostname 0644 root root - {}\n", told.spec.name));
    }
    if let Some(key) = &told.host_key {
        let file = "/etc/ssh/ssh_host_ed25519_key";
        lines.push_str(&format!("f+~ {file} 0600 root root - {}\n", BASE64.encode(&key.private)));
        lines.push_str(&format!("f+~ {file}.pub 0644 root root - {}\n", BASE64.encode(&key.public)));
    }
    if let Some(user) = &told.spec.user {
        let home = format!("/home/{user}");
        let keys = BASE64.encode(authorized_keys(told));
        lines.push_str(&format!(
            "d {home} 0755 {user} {user}\n\
             d {home}/.ssh 0700 {user} {user}\n\
             f~ {home}/.ssh/authorized_keys 0600 {user} {user} - {keys}\n\
             C {home}/.profile 0644 {user} {user} - /etc/skel/.profile\n\
             C {home}/.bashrc 0644 {user} {user} - /etc/skel/.bashrc\n\
             f+ /etc/sudoers.d/90-midge 0440 root root - {user} ALL=(ALL) NOPASSWD:ALL\n"
        ));
    }
    if told.first {
        for file in &told.spec.files {
            let (path, content) = (quoted(&file.path), BASE64.encode(&file.content.0));
            lines.push_str(&format!("f+~ {path} {} root root - {content}\n", file.mode));
        }
    }
    lines
}

/// A path as tmpfiles.d(5) reads it: `%` begins a specifier, and quotes and backslashes are C's.
fn quoted(path: &str) -> String {
    let mut out = String::from("\"");
    for c in path.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' => out.push_str("%%"),
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::HostKey;
    use crate::spec::{Blob, FileMode, GuestFile};

    fn spec() -> VmSpec {
        let mut spec = VmSpec::named("web");
        spec.kind = Kind::Linux;
        spec
    }

    fn told(spec: &VmSpec) -> Told<'_> {
        let keys = vec!["ssh-ed25519 AAAA midge", "ssh-rsa BBBB a b"];
        Told { spec, keys, host_key: None, first: true, macs: &[] }
    }

    fn text(told: &Told<'_>, name: &str) -> String {
        let contents = contents(told);
        let (_, bytes) = contents.into_iter().find(|(other, _)| other == name).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_key_is_passed_on() {
        let spec = spec();
        assert_eq!(text(&told(&spec), KEYS), "ssh-ed25519 AAAA midge\nssh-rsa BBBB a b\n");
        assert_eq!(names(&spec), [KEYS, FILES]);
    }

    #[test]
    fn the_guest_is_given_its_host_key() {
        let spec = spec();
        let mut told = told(&spec);
        told.host_key =
            Some(HostKey { private: "secret\n".to_owned(), public: "ssh-ed25519 CC\n".to_owned() });
        let lines = text(&told, FILES);
        assert!(
            lines.contains("f+~ /etc/ssh/ssh_host_ed25519_key 0600 root root - c2VjcmV0Cg==\n"),
            "{lines}"
        );
        assert!(lines.contains("f+ /etc/hostname 0644 root root - web\n"), "{lines}");
    }

    #[test]
    fn a_user_has_a_home_and_the_same_keys() {
        let mut spec = spec();
        spec.user = Some("pi".to_owned());
        assert!(text(&told(&spec), USERS).starts_with("u pi 1000 \"\" /home/pi /bin/bash\nm pi adm\n"));
        let lines = text(&told(&spec), FILES);
        let keys = BASE64.encode("ssh-ed25519 AAAA midge\nssh-rsa BBBB a b\n");
        let line = format!("f~ /home/pi/.ssh/authorized_keys 0600 pi pi - {keys}\n");
        assert!(lines.contains(&line), "{lines}");
    }

    #[test]
    fn only_interfaces_with_fixed_addresses_are_told_of() {
        let mut spec = spec();
        spec.user = Some("pi".to_owned());
        let nets =
            ["user", "bridge=br0,ip=10.0.0.5/8,gateway=10.0.0.1,dns=10.0.0.2,dns=9.9.9.9", "bridge=br1"];
        spec.nets = nets.map(|net| net.parse().unwrap()).to_vec();
        let macs = [1, 2, 3].map(|last| Mac::local([0, 0, last]));
        let told = Told { macs: &macs, ..told(&spec) };
        assert_eq!(names(&spec), [KEYS, FILES, USERS, "network.network.05-midge1"]);
        let file = format!(
            "[Match]\nMACAddress={}\n\n[Network]\nAddress=10.0.0.5/8\nGateway=10.0.0.1\nDNS=10.0.0.2\nDNS=9.9.9.9\n",
            macs[1]
        );
        assert_eq!(text(&told, "network.network.05-midge1"), file);
        assert!(text(&told, USERS).starts_with("u pi "));
        let longest = format!("opt/io.systemd.credentials/{NETWORKS}15");
        assert!(longest.len() <= 55, "{longest}");
    }

    #[test]
    fn files_are_given_once_whatever_their_names() {
        let mut spec = spec();
        let path = "/etc/a b%\"\\c".to_owned();
        spec.files = vec![GuestFile { path, mode: FileMode(0o600), content: Blob(b"100%\n".to_vec()) }];
        let line = "f+~ \"/etc/a b%%\\\"\\\\c\" 0600 root root - MTAwJQo=\n";
        assert!(text(&told(&spec), FILES).contains(line));
        let later = Told { first: false, ..told(&spec) };
        assert!(!text(&later, FILES).contains("MTAwJQo="));
    }
}
