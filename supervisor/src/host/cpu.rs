//! The CPU: its name and its features, from `/proc/cpuinfo` (proc_cpuinfo(5)).

use std::io::{self, BufRead, BufReader};

use super::root::HostRoot;

/// What is known of the first CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Its model: `model name` on x86, and on Arm the core's name by its part number.
    pub model: Option<String>,
    /// Its features: the words of `flags` on x86, of `Features` on Arm.
    pub features: Vec<String>,
}

impl Cpu {
    /// Looks at the host. Reads of the first CPU only: the kernel writes the text as it is read, which takes its time with many.
    pub fn of(root: &HostRoot) -> io::Result<Self> {
        let mut text = String::new();
        for line in BufReader::new(std::fs::File::open(root.path("proc/cpuinfo"))?).lines() {
            let line = line?;
            if line.trim().is_empty() {
                break;
            }
            text.push_str(&line);
            text.push('\n');
        }
        Ok(Self::parse(&text))
    }

    /// From the text of `/proc/cpuinfo`.
    #[must_use]
    pub(super) fn parse(cpuinfo: &str) -> Self {
        let value = |name: &str| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim())
        };
        let features = value("flags").or_else(|| value("Features")).unwrap_or_default();
        let arm = || Some(arm_core(value("CPU implementer")?, value("CPU part")?));
        Self {
            model: value("model name").map(str::to_owned).or_else(arm),
            features: features.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

/// Part numbers of Arm Ltd (0x41): the cores of Raspberry Pi 3, 4 and 5, and common servers (Main ID Register, MIDR_EL1).
fn arm_core(implementer: &str, part: &str) -> String {
    let name = match (implementer, part) {
        ("0x41", "0xd03") => "Cortex-A53",
        ("0x41", "0xd08") => "Cortex-A72",
        ("0x41", "0xd0b") => "Cortex-A76",
        ("0x41", "0xd0c") => "Neoverse-N1",
        ("0x41", "0xd40") => "Neoverse-V1",
        ("0x41", "0xd49") => "Neoverse-N2",
        _ => return format!("implementer {implementer}, part {part}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x86_and_arm_name_their_features_each_in_its_own_way() {
        let x86 = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\nflags\t\t: fpu vme aes\n\nprocessor\t: 1\n";
        let cpu = Cpu::parse(x86);
        assert_eq!(cpu.model.as_deref(), Some("Intel(R) Xeon(R) Processor"));
        assert_eq!(cpu.features, ["fpu", "vme", "aes"]);
        let arm = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd aes\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n";
        let cpu = Cpu::parse(arm);
        assert_eq!((cpu.model.as_deref(), cpu.features.len()), (Some("Cortex-A76"), 3));
        let unknown = Cpu::parse("CPU implementer : 0x61\nCPU part : 0x022\n");
        assert_eq!(unknown.model.as_deref(), Some("implementer 0x61, part 0x022"));
        assert_eq!(Cpu::parse(""), Cpu::default());
    }

    #[test]
    fn this_hosts_first_cpu_is_read_as_from_the_whole_text() {
        let root = HostRoot::system();
        let whole = Cpu::parse(&root.read("proc/cpuinfo").unwrap());
        assert_eq!(Cpu::of(&root).unwrap(), whole);
        assert!(!whole.features.is_empty());
    }
}
