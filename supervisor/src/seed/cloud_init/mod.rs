//! What cloud-init's NoCloud source reads: a FAT volume with the label `cidata` that holds `meta-data`, `network-config` and
//! `user-data` (cloud-init's documentation, "NoCloud").
//!
//! What midge itself says is JSON, since cloud-init reads YAML 1.1, where a host named `no` is the boolean false. What the user says
//! is passed on byte for byte, so that it means to cloud-init what it means there. The two are joined by cloud-init as the parts
//! of one MIME message: the user's first, then midge's with a rule for merging that lets the user's values stand.

mod json;
mod multipart;
mod user_data;
mod volume;
mod yaml;

pub use user_data::{Format, UserData, UserDataError};
pub use volume::write as write_volume;

use serde_json::{Value, json};

use super::{Seed, Told};
use crate::spec::{Net, VmSpec};

/// The user-data of a guest whose user gave none, and midge's part of the others'.
const HEADER: &str = "#cloud-config\n";

/// The files of the volume.
pub(super) fn files(
    told: &Told<'_>,
    seed: &Seed,
    user_data: Option<&UserData>,
) -> Vec<(&'static str, Vec<u8>)> {
    let own = format!("{HEADER}{}\n", json::ascii(&config(told)));
    let user_data = match user_data {
        None => own.into_bytes(),
        Some(user_data) => multipart::join(user_data, &own),
    };
    let meta = json!({ "instance-id": seed.id, "local-hostname": told.spec.name });
    vec![
        ("meta-data", json::ascii(&meta).into_bytes()),
        ("network-config", json::ascii(&network(told.spec, seed)).into_bytes()),
        ("user-data", user_data),
    ]
}

/// midge's own configuration (cloud-init's documentation, "Module reference").
fn config(told: &Told<'_>) -> Value {
    let spec = told.spec;
    let mut config = json!({
        "hostname": spec.name,
        // root is who `midge ssh` logs in as; without a password, by key alone.
        "disable_root": false,
        "ssh_authorized_keys": told.keys,
    });
    let Value::Object(fields) = &mut config else { return config };
    if let Some(key) = &told.host_key {
        fields.insert(
            "ssh_keys".to_owned(),
            json!({ "ed25519_private": key.private, "ed25519_public": key.public.trim_end() }),
        );
    }
    if let Some(user) = &spec.user {
        let user = json!({
            "name": user,
            "ssh_authorized_keys": told.keys,
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "shell": "/bin/bash",
            "lock_passwd": true,
        });
        fields.insert("users".to_owned(), json!([user]));
    }
    if !spec.files.is_empty() {
        use base64::Engine;
        let files = spec.files.iter().map(|file| {
            json!({
                "path": file.path,
                "permissions": file.mode,
                "encoding": "b64",
                "content": base64::engine::general_purpose::STANDARD.encode(&file.content.0),
            })
        });
        fields.insert("write_files".to_owned(), files.collect());
    }
    config
}

/// Every interface asks by DHCP unless it has a fixed address (cloud-init's documentation, "Networking config Version 2").
fn network(spec: &VmSpec, seed: &Seed) -> Value {
    let interfaces = spec.nets.iter().zip(&seed.macs).enumerate().map(|(index, (net, mac))| {
        let mut interface = json!({
            "match": { "macaddress": mac.to_string() },
            "dhcp4": net.fixed_address().is_none(),
            // One whose cable is not plugged in holds up nothing.
            "optional": true,
        });
        if let Net::Bridge { ip: Some(ip), gateway, dns, .. } = net {
            interface["addresses"] = json!([ip]);
            if let Some(gateway) = gateway {
                interface["routes"] = json!([{ "to": "0.0.0.0/0", "via": gateway }]);
            }
            if !dns.is_empty() {
                interface["nameservers"] = json!({ "addresses": dns });
            }
        }
        (format!("nic{index}"), interface)
    });
    json!({ "version": 2, "ethernets": interfaces.collect::<serde_json::Map<_, _>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{HostKey, Method};
    use crate::spec::{Blob, FileMode, GuestFile};

    /// Texts that a YAML 1.1 reader takes for something else when they are not quoted.
    const HAZARDS: [&str; 12] =
        ["no", "yes", "on", "off", "No", "OFF", "1:30", "12:34:56", "1_000", "2026-11-20", "=", "<<"];
    /// Texts that JSON may hold as they are and YAML may not.
    const STRANGE: [&str; 6] =
        ["\u{7f}", "\u{85}x", "\u{feff}", "\u{2028}", "\u{ffff}", "a\tb\\\"\u{1f600}é\0"];

    fn seed() -> Seed {
        let macs = ["52:54:00:12:34:56", "52:54:00:12:34:57"].map(|mac| mac.parse().unwrap()).to_vec();
        Seed { method: Method::CloudInit, id: uuid::Uuid::from_u128(7), macs, has_cloud_init: true }
    }

    fn file<'a>(files: &'a [(&'static str, Vec<u8>)], name: &str) -> &'a str {
        let (_, bytes) = files.iter().find(|(other, _)| *other == name).unwrap();
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_guest_learns_who_it_is_and_who_may_come_in() {
        let mut spec = VmSpec::named("no");
        spec.user = Some("off".to_owned());
        spec.files = vec![GuestFile {
            path: "/etc/x".to_owned(),
            mode: FileMode(0o600),
            content: Blob(b"\xff\0".to_vec()),
        }];
        let nets = ["user", "bridge=br0,ip=10.0.0.5/8,gateway=10.0.0.1,dns=9.9.9.9"];
        spec.nets = nets.map(|net| net.parse().unwrap()).to_vec();
        let host_key =
            Some(HostKey { private: "secret\n".to_owned(), public: "ssh-ed25519 CC midge\n".to_owned() });
        let seed = seed();
        let keys = vec!["ssh-ed25519 AAAA midge"];
        let told = Told { spec: &spec, keys, host_key, first: true, macs: &seed.macs };
        let files = files(&told, &seed, None);
        let meta: Value = serde_json::from_str(file(&files, "meta-data")).unwrap();
        assert_eq!(
            meta,
            json!({ "instance-id": "00000000-0000-0000-0000-000000000007", "local-hostname": "no" })
        );
        let config: Value =
            serde_json::from_str(file(&files, "user-data").strip_prefix("#cloud-config\n").unwrap()).unwrap();
        assert_eq!(config["ssh_keys"]["ed25519_public"], "ssh-ed25519 CC midge");
        assert_eq!(config["users"][0]["name"], "off");
        assert_eq!(config["write_files"][0]["permissions"], "0600");
        assert_eq!(config["write_files"][0]["content"], "/wA=");
        let network: Value = serde_json::from_str(file(&files, "network-config")).unwrap();
        let fixed = json!({
            "match": { "macaddress": "52:54:00:12:34:57" },
            "dhcp4": false,
            "optional": true,
            "addresses": ["10.0.0.5/8"],
            "routes": [{ "to": "0.0.0.0/0", "via": "10.0.0.1" }],
            "nameservers": { "addresses": ["9.9.9.9"] },
        });
        let asking =
            json!({ "match": { "macaddress": "52:54:00:12:34:56" }, "dhcp4": true, "optional": true });
        assert_eq!(network["ethernets"], json!({ "nic0": asking, "nic1": fixed }));
    }

    /// PyYAML is what cloud-init reads with.
    #[test]
    fn what_midge_says_means_the_same_to_a_reader_of_yaml_1_1() {
        use std::io::Write;
        use std::process::{Command, Stdio};

        let texts: Vec<&str> = HAZARDS.into_iter().chain(STRANGE).collect();
        let told: Value = json!({ "list": texts, "map": texts.iter().map(|t| (*t, *t)).collect::<std::collections::BTreeMap<_, _>>() });
        let script = "import sys, json, yaml; print(json.dumps(yaml.safe_load(sys.stdin.buffer)))";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python3 is here: scripts/setup.sh --tests installs it");
        child.stdin.take().unwrap().write_all(format!("{HEADER}{}", json::ascii(&told)).as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "PyYAML (python3-yaml, scripts/setup.sh --tests installs it): {errors}"
        );
        let read: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(read, told);
    }
}
