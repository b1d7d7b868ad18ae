//! What a guest is told at its boot: its name and who may log in.
//!
//! systemd 252 and later take credentials from the kernel's command line (systemd.system-credentials(7),
//! kernel-command-line(7)), which every machine type and boot method has, so nothing in the list of devices differs between a guest
//! that is provisioned and one that is not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The kernel words that give the guest its host name and let the holders of these keys in as root.
#[must_use]
pub fn kernel_words(host_name: &str, ssh_keys: &[String]) -> Vec<String> {
    let mut words = vec![format!("systemd.hostname={host_name}")];
    if !ssh_keys.is_empty() {
        // The binary form takes base64, in which nothing needs quoting, neither for the kernel nor for systemd.
        let mut keys = ssh_keys.join("\n");
        keys.push('\n');
        let keys = STANDARD.encode(keys);
        words.push(format!("systemd.set_credential_binary=ssh.authorized_keys.root:{keys}"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_travel_as_one_word() {
        let words =
            kernel_words("web", &["ssh-ed25519 AAAA some \"body\"".to_owned(), "ssh-rsa BBBB".to_owned()]);
        assert_eq!(words[0], "systemd.hostname=web");
        let encoded =
            words[1].strip_prefix("systemd.set_credential_binary=ssh.authorized_keys.root:").unwrap();
        assert!(!encoded.contains([' ', '"']));
        let keys = STANDARD.decode(encoded).unwrap();
        assert_eq!(keys, b"ssh-ed25519 AAAA some \"body\"\nssh-rsa BBBB\n");
        assert_eq!(kernel_words("web", &[]).len(), 1);
    }
}
