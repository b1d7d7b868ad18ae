//! The kernel's command line (kernel-parameters.txt in Linux; bootparam(7)).

/// What the command line says of the root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// `root=`: the device.
    pub root: Option<&'a str>,
    /// `rootfstype=`: names of file systems, separated by commas.
    pub fstype: Option<&'a str>,
    /// `rootflags=`: options for the mount.
    pub flags: Option<&'a str>,
    /// `rw` as against `ro`, whichever comes last; read-only is the kernel's own choice.
    pub writable: bool,
    /// `init=`: the program to run.
    pub init: &'a str,
}

impl<'a> Wanted<'a> {
    /// Reads a command line. Of a word that is there twice the last counts.
    pub fn of(line: &'a str) -> Self {
        let mut wanted = Self { root: None, fstype: None, flags: None, writable: false, init: "/sbin/init" };
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("root", value)) => wanted.root = Some(value),
                Some(("rootfstype", value)) => wanted.fstype = Some(value),
                Some(("rootflags", value)) => wanted.flags = Some(value),
                Some(("init", value)) if !value.is_empty() => wanted.init = value,
                None if word == "rw" => wanted.writable = true,
                None if word == "ro" => wanted.writable = false,
                _ => {}
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts() {
        let line =
            "root=/dev/vdb ro root=UUID=abc rw quiet rootflags=noatime rootfstype=ext4,xfs console=ttyS0\n";
        let wanted = Wanted::of(line);
        assert_eq!(wanted.root, Some("UUID=abc"));
        assert_eq!((wanted.flags, wanted.fstype), (Some("noatime"), Some("ext4,xfs")));
        assert!(wanted.writable);
        assert_eq!(wanted.init, "/sbin/init");
    }

    #[test]
    fn nothing_said_is_the_kernels_own_choice() {
        let wanted = Wanted::of("init=");
        assert_eq!((wanted.root, wanted.writable, wanted.init), (None, false, "/sbin/init"));
        assert_eq!(Wanted::of("init=/bin/sh rwx").init, "/bin/sh");
    }
}
