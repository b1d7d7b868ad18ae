//! What a distribution wants its kernel to be told: the words of GRUB's configuration.

/// One way to boot, as GRUB's configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The kernel's path, as GRUB sees it: from the root of the file system that holds it.
    pub kernel: String,
    /// The initial RAM disk's.
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub words: Vec<String>,
}

/// The first entry of a `grub.cfg` that has a kernel, preferably one with an initial RAM disk (GRUB manual, "Shell-like scripting").
///
/// The file is a script; this reads the `linux` and `initrd` lines of its first `menuentry` and leaves out words with variables,
/// whose values only GRUB would know.
#[must_use]
pub fn first_entry(script: &str) -> Option<Entry> {
    let (mut first, mut current): (Option<Entry>, Option<Entry>) = (None, None);
    let mut entries = 0;
    for line in script.lines() {
        let mut words = split(line).into_iter();
        match words.next().as_deref() {
            Some("menuentry") => {
                entries += 1;
                if entries > 1 && (first.is_some() || current.is_some()) {
                    break;
                }
            }
            Some("linux" | "linux16" | "linuxefi") => {
                first = first.or(current.take());
                current = words.next().filter(|kernel| !kernel.contains('$')).map(|kernel| Entry {
                    kernel,
                    initrd: None,
                    words: words.filter(|word| !word.contains('$')).collect(),
                });
            }
            Some("initrd" | "initrd16" | "initrdefi") => {
                if let (Some(mut entry), Some(initrd)) = (current.take(), words.next()) {
                    entry.initrd = Some(initrd).filter(|path| !path.contains('$'));
                    return Some(entry);
                }
            }
            _ => {}
        }
    }
    first.or(current)
}

/// The words that `/etc/default/grub` adds to every command line: those of `GRUB_CMDLINE_LINUX_DEFAULT`, then of
/// `GRUB_CMDLINE_LINUX`. The file is a shell script that sets variables; what needs a shell to be understood is left out.
#[must_use]
pub fn default_words(script: &str) -> Vec<String> {
    let value = |name: &str| {
        let lines =
            script.lines().rev().filter_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix('='));
        lines.map(|value| split(value).into_iter().next().unwrap_or_default()).next().unwrap_or_default()
    };
    let words = [value("GRUB_CMDLINE_LINUX_DEFAULT"), value("GRUB_CMDLINE_LINUX")];
    words
        .iter()
        .flat_map(|words| words.split_whitespace())
        .filter(|w| !w.contains(['$', '`']))
        .map(str::to_owned)
        .collect()
}

/// Splits a line as a shell does: by blanks outside quotes, up to a comment.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut begun): (Vec<String>, String, bool) = (Vec::new(), String::new(), false);
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '#') if !begun => break,
            (None, c) if c.is_whitespace() => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                begun = true;
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                word.extend(chars.next());
                begun = true;
            }
            (_, c) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(script: &str) -> (String, Option<String>, String) {
        let entry = first_entry(script).unwrap();
        (entry.kernel, entry.initrd, entry.words.join(" "))
    }

    /// As update-grub writes it in Debian's cloud images.
    #[test]
    fn debians_configuration_is_understood() {
        let script = r#"
set linux_gfx_mode=auto
export linux_gfx_mode
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-c1' {
	load_video
	insmod ext2
	search --no-floppy --fs-uuid --set=root 5d3b6c02
	echo	'Loading Linux 6.1.0-18-cloud-amd64 ...'
	linux	/boot/vmlinuz-6.1.0-18-cloud-amd64 root=PARTUUID=0b3a ro console=tty0 console=ttyS0,115200 "a b" $vt_handoff
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1.0-18-cloud-amd64
}
submenu 'Advanced options' {
	menuentry 'old' {
		linux	/boot/vmlinuz-5 root=PARTUUID=old
		initrd	/boot/initrd.img-5
	}
}"#;
        assert_eq!(
            entry(script),
            (
                "/boot/vmlinuz-6.1.0-18-cloud-amd64".to_owned(),
                Some("/boot/initrd.img-6.1.0-18-cloud-amd64".to_owned()),
                "root=PARTUUID=0b3a ro console=tty0 console=ttyS0,115200 a b".to_owned()
            )
        );
    }

    /// Ubuntu's tries without an initial RAM disk first.
    #[test]
    fn the_kernel_with_an_initial_ram_disk_is_preferred() {
        let script = "menuentry 'Ubuntu' {\n if [ \"${initrdfail}\" = 1 ]; then\n linux /vmlinuz-6.8 root=PARTUUID=1 ro\n \
                      initrd /initrd.img-6.8\n else\n linux /vmlinuz-6.8 root=PARTUUID=1 ro panic=-1\n fi\n}";
        assert_eq!(entry(script).1.as_deref(), Some("/initrd.img-6.8"));
        let without = "menuentry x {\nlinux /k root=/dev/vda1\n}\nmenuentry y {\nlinux /z\ninitrd /i\n}";
        assert_eq!(entry(without), ("/k".to_owned(), None, "root=/dev/vda1".to_owned()));
    }

    #[test]
    fn what_only_grub_could_know_is_no_entry() {
        for nothing in ["", "menuentry x {\n}", "linux", "linux $kernel root=1", "echo linux /x", "'", "\\"] {
            assert_eq!(first_entry(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn the_default_words_are_those_of_the_last_setting() {
        let script = "# GRUB_CMDLINE_LINUX=no\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet splash\" # x\nGRUB_CMDLINE_LINUX='a'\n\
                      GRUB_CMDLINE_LINUX=\"net.ifnames=0 $x console=ttyS0\"\n";
        assert_eq!(default_words(script).join(" "), "quiet splash net.ifnames=0 console=ttyS0");
        assert!(default_words("").is_empty());
    }
}
