//! What a guest is told at its boot: its name and who may log in.
//!
//! The name is a word on the kernel's command line (kernel-command-line(7), `systemd.hostname=`). The keys are a systemd
//! credential (systemd.system-credentials(7)), which systemd 252 and later read from QEMU's fw_cfg device, on every machine type and
//! without a word of it in `/proc/cmdline`. Guests that know nothing of it do not look there, so every kind of guest is given the
//! same: what differs between two command lines is what is booted.

use crate::spec::{Kind, Provision, VmSpec};

/// The words for the guest's kernel.
#[must_use]
pub fn kernel_words(spec: &VmSpec, kind: Kind) -> Vec<String> {
    if kind == Kind::Linux && spec.provision != Provision::None {
        vec![format!("systemd.hostname={}", spec.name)]
    } else {
        Vec::new()
    }
}

/// The credentials for the guest, by name. `own_key` is midge's own public key.
#[must_use]
pub fn credentials(spec: &VmSpec, own_key: Option<&str>) -> Vec<(String, String)> {
    if spec.provision == Provision::None {
        return Vec::new();
    }
    let keys: Vec<&str> = own_key.into_iter().chain(spec.ssh_keys.iter().map(String::as_str)).collect();
    if keys.is_empty() {
        return Vec::new();
    }
    // systemd-tmpfiles writes it to /root/.ssh/authorized_keys (tmpfiles.d/provision.conf).
    vec![("ssh.authorized_keys.root".to_owned(), format!("{}\n", keys.join("\n")))]
}

/// midge's own public key, if the pair has been made.
#[must_use]
pub fn own_key(home: &crate::store::Home) -> Option<String> {
    let text = std::fs::read_to_string(home.state().join("ssh").join("id_ed25519.pub")).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_passed_on_and_none_without_provisioning() {
        let mut spec = VmSpec::named("web");
        assert_eq!(credentials(&spec, None), []);
        spec.ssh_keys = vec!["ssh-rsa BBBB a b".to_owned()];
        let keys = "ssh-ed25519 AAAA midge\nssh-rsa BBBB a b\n".to_owned();
        let name = "ssh.authorized_keys.root".to_owned();
        assert_eq!(credentials(&spec, Some("ssh-ed25519 AAAA midge")), [(name, keys)]);
        spec.provision = Provision::None;
        assert_eq!(credentials(&spec, Some("ssh-ed25519 AAAA midge")), []);
    }

    #[test]
    fn only_linux_is_told_its_name_on_the_command_line() {
        let spec = VmSpec::named("web");
        assert_eq!(kernel_words(&spec, Kind::Linux), ["systemd.hostname=web"]);
        assert!(kernel_words(&spec, Kind::Solo5).is_empty());
    }
}
