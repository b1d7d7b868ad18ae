//! What `systemd-analyze` says of a boot. Pure.

use super::results::Systemd;

/// How many units are kept.
const SLOWEST: usize = 10;

/// Makes both its outputs run in a guest, with a line `--` between. It waits until systemd has started everything, as there is nothing to
/// say of a boot before.
pub const SCRIPT: &str = "command -v systemd-analyze >/dev/null || exit 127\n\
    systemctl is-system-running --wait >/dev/null 2>&1\n\
    systemd-analyze time --no-pager && echo -- && systemd-analyze blame --no-pager";

impl Systemd {
    /// Reads what [`SCRIPT`] printed; none where the boot's times are not in it.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (time, blame) = text.split_once("\n--\n")?;
        // `Startup finished in 1.234s (kernel) + 5.6s (initrd) + 1min 2.3s (userspace) = …`
        let line = time.lines().find(|line| line.starts_with("Startup finished in "))?;
        let line = line.strip_prefix("Startup finished in ")?.split(" = ").next()?;
        let part = |name: &str| {
            let part = line.split(" + ").find(|part| part.ends_with(&format!("({name})")))?;
            duration(part.rsplit_once(" (")?.0)
        };
        let slowest = blame.lines().filter_map(|line| {
            let (time, unit) = line.trim().rsplit_once(' ')?;
            Some((unit.to_owned(), duration(time)?))
        });
        Some(Self {
            kernel: part("kernel"),
            initrd: part("initrd"),
            userspace: part("userspace"),
            slowest: slowest.take(SLOWEST).collect(),
        })
    }
}

/// A time as systemd writes it (systemd.time(7), "Displaying time spans"), in milliseconds.
fn duration(text: &str) -> Option<f64> {
    let mut total = 0.0;
    for word in text.split_ascii_whitespace() {
        let digits = word.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = word.split_at(digits);
        let scale = match unit {
            "us" | "μs" => 0.001,
            "ms" => 1.0,
            "s" => 1000.0,
            "min" => 60_000.0,
            "h" => 3_600_000.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
    }
    (!text.trim().is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_prints_is_read() {
        let text = "Startup finished in 2.103s (kernel) + 1min 7.001s (userspace) = 1min 9.105s \n\
                    graphical.target reached after 6.8s in userspace.\n--\n\
                    1min 2.5s apt-daily.service\n    812ms ssh.service\n  90us dev-x\\x2dy.device\n";
        let said = Systemd::read(text).unwrap();
        assert_eq!((said.kernel, said.initrd, said.userspace), (Some(2103.0), None, Some(67_001.0)));
        assert_eq!(said.slowest[0], ("apt-daily.service".to_owned(), 62_500.0));
        assert_eq!(said.slowest[2], ("dev-x\\x2dy.device".to_owned(), 0.09));
        assert_eq!(Systemd::read("Bootup is not yet finished.\n--\n"), None);
        assert_eq!(Systemd::read(""), None);
    }
}
