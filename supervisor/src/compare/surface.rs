//! What a guest offers to an attacker, seen from inside: a Linux by what its agent answers, a unikernel by its ELF file.

use std::collections::BTreeMap;
use std::path::Path;

use object::{Object, ObjectSection, ObjectSymbol, SectionFlags};

use super::results::{Fact, Measured};

/// Everything that is asked, with what a report calls it, in its order.
pub const FACTS: [(&str, &str); 12] = [
    ("processes", "processes, without kernel threads"),
    ("listening", "listening sockets"),
    ("suid", "SUID files"),
    ("modules", "loaded kernel modules"),
    ("shells", "users with a shell"),
    ("packages", "packages"),
    ("syscalls", "system calls of the kernel as configured"),
    ("seccomp", "processes under a seccomp filter"),
    ("lockdown", "kernel lockdown"),
    ("symbols", "exported symbols of the ELF"),
    ("writable_code", "sections writable and executable"),
    ("libraries", "known libraries in the ELF"),
];
/// Those of [`FACTS`] that are a unikernel's.
const OF_ELF: [&str; 3] = ["symbols", "writable_code", "libraries"];
/// How many of what was counted are kept by name.
const KEPT: usize = 12;

/// A shell script that asks a Linux. It prints `@FACT` and then what is counted, a line each; `=` begins a state, `!` the reason why there
/// is none. It needs nothing but a POSIX shell, find and sed, which BusyBox has, too.
pub const SCRIPT: &str = r#"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
echo @processes
for d in /proc/[0-9]*; do
    [ "$d" = "/proc/$$" ] && continue
    p=$(readlink "$d/exe") && echo "${p##*/}"
done
echo @listening
for f in tcp tcp6 udp udp6; do
    [ -r "/proc/net/$f" ] || continue
    while read -r n local remote state rest; do
        case $f:$state in tcp*:0A|udp*:07) echo "$f $local" ;; esac
    done < "/proc/net/$f"
done
echo @suid
find / -xdev -perm -4000 -type f 2>/dev/null
echo @modules
if [ -r /proc/modules ]; then
    while read -r m rest; do echo "$m"; done < /proc/modules
else
    echo '!the kernel takes no modules'
fi
echo @shells
if [ -r /etc/passwd ]; then
    while IFS=: read -r user p u g c home shell; do
        case $shell in */nologin|*/false|*/sync|'') ;; *) echo "$user" ;; esac
    done < /etc/passwd
else
    echo '!there is no /etc/passwd'
fi
echo @packages
if command -v dpkg-query >/dev/null; then dpkg-query -W -f '${Package}\n'
elif command -v apk >/dev/null; then apk info 2>/dev/null
elif command -v rpm >/dev/null; then rpm -qa
else echo '!it has no package manager (dpkg, apk and rpm were looked for)'; fi
echo @syscalls
if [ -r /proc/kallsyms ]; then
    sed -n 's/^.* [Tt] __\(x64\|arm64\)_sys_\([a-z0-9_]*\)$/\2/p' /proc/kallsyms | sort -u
else
    echo '!the kernel shows no symbols (/proc/kallsyms)'
fi
echo @seccomp
if [ -e /proc/sys/kernel/seccomp/actions_avail ]; then
    for d in /proc/[0-9]*; do
        while read -r key value; do
            [ "$key" = Seccomp: ] && [ "$value" = 2 ] && { read -r name < "$d/comm" && echo "$name"; break; }
        done < "$d/status"
    done 2>/dev/null
else
    echo '!the kernel has no seccomp'
fi
echo @lockdown
if [ -r /sys/kernel/security/lockdown ]; then
    read -r state < /sys/kernel/security/lockdown && echo "=$state"
else
    echo '!securityfs has no lockdown file: the kernel was built without it, or securityfs is not mounted'
fi
echo @end
"#;

/// Reads what [`SCRIPT`] printed. Facts of an ELF do not apply to a Linux.
///
/// # Errors
/// With a sentence, when the script did not come to its end.
pub fn of_linux(said: &str) -> Result<BTreeMap<String, Measured<Fact>>, String> {
    let mut facts = BTreeMap::new();
    let mut parts = said.split("\n@").map(|part| part.trim_start().trim_start_matches('@'));
    let mut ended = false;
    for part in &mut parts {
        let mut lines = part.lines();
        let Some(key) = lines.next().map(str::trim) else { continue };
        ended |= key == "end";
        if !FACTS.iter().any(|(name, _)| *name == key) {
            continue;
        }
        let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
        facts.insert(key.to_owned(), fact(key, &lines));
    }
    if !ended {
        return Err("the script that asks the guest did not come to its end".to_owned());
    }
    for key in OF_ELF {
        let why = "a Linux kernel is no single ELF program: its symbols are for its modules, and its libraries are in its packages";
        facts.insert(key.to_owned(), Measured::NotApplicable(why.to_owned()));
    }
    Ok(facts)
}

fn fact(key: &str, lines: &[&str]) -> Measured<Fact> {
    match lines {
        [why] if why.starts_with('!') => Measured::NotApplicable(why[1..].to_owned()),
        [state] if state.starts_with('=') => {
            Measured::Value(Fact { count: None, items: vec![state[1..].to_owned()] })
        }
        lines => {
            let mut items: Vec<String> = match key {
                "listening" => {
                    lines.iter().map(|line| socket(line).unwrap_or_else(|| (*line).to_owned())).collect()
                }
                // Hundreds of names, of which a reader wants none.
                "syscalls" => Vec::new(),
                _ => lines.iter().map(|line| (*line).to_owned()).collect(),
            };
            items.truncate(KEPT);
            Measured::Value(Fact { count: Some(lines.len() as u64), items })
        }
    }
}

/// `tcp 0100007F:0016` as `tcp 127.0.0.1:22`. The kernel writes addresses as words in the byte order of the machine (proc_pid_net(5)).
fn socket(line: &str) -> Option<String> {
    let (protocol, local) = line.split_once(' ')?;
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => std::net::IpAddr::from(word(0)?).to_string(),
        32 => {
            let bytes: Vec<u8> = [0, 8, 16, 24].into_iter().map(word).collect::<Option<Vec<_>>>()?.concat();
            format!("[{}]", std::net::IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => return None,
    };
    Some(format!("{} {address}:{port}", protocol.trim_end_matches('6')))
}

/// Looks at a unikernel's file. Facts of a Linux do not apply to it.
///
/// # Errors
/// When the file cannot be read.
pub fn of_elf(kernel: &Path) -> std::io::Result<BTreeMap<String, Measured<Fact>>> {
    let bytes = std::fs::read(kernel)?;
    let mut facts = elf(&bytes);
    for (key, _) in FACTS.iter().filter(|(key, _)| !OF_ELF.contains(key)) {
        facts.insert((*key).to_owned(), Measured::NotApplicable(why_not_linux(key).to_owned()));
    }
    Ok(facts)
}

/// Why a question for a Linux makes no sense for a unikernel.
fn why_not_linux(key: &str) -> &'static str {
    match key {
        "processes" | "seccomp" => "a unikernel is one program in one address space: there are no processes",
        "listening" => "it has no /proc to ask; the scan of its ports tells what listens",
        "suid" | "shells" => "it has no users",
        "modules" => "it loads no modules: the kernel and the application are one file",
        "packages" => "it has no packages; the libraries that are linked into it are below",
        "syscalls" => {
            "there is no boundary of system calls to be crossed: the application calls the kernel's functions"
        }
        _ => "that is a state of the Linux kernel",
    }
}

fn elf(bytes: &[u8]) -> BTreeMap<String, Measured<Fact>> {
    let file = match object::File::parse(bytes) {
        Ok(file) => file,
        Err(e) => {
            let why = format!("the kernel is no ELF file that can be read ({e})");
            return OF_ELF
                .iter()
                .map(|key| ((*key).to_owned(), Measured::NotApplicable(why.clone())))
                .collect();
        }
    };
    let mut facts = BTreeMap::new();
    let names = file.symbols().chain(file.dynamic_symbols()).filter(|s| s.is_global() && s.is_definition());
    let mut names: Vec<String> = names.filter_map(|s| Some(s.name().ok()?.to_owned())).collect();
    names.sort_unstable();
    names.dedup();
    facts.insert("symbols", names);
    let flags = object::elf::SHF_WRITE.0 | object::elf::SHF_EXECINSTR.0;
    let both = file.sections().filter(
        |section| matches!(section.flags(), SectionFlags::Elf { sh_flags, .. } if sh_flags.0 & flags == flags),
    );
    facts.insert("writable_code", both.filter_map(|section| Some(section.name().ok()?.to_owned())).collect());
    facts.insert("libraries", libraries(bytes));
    let counted = facts.into_iter().map(|(key, mut items)| {
        let count = Some(items.len() as u64);
        items.truncate(KEPT);
        (key.to_owned(), Measured::Value(Fact { count, items }))
    });
    counted.collect()
}

/// Libraries by what their authors left in the file: paths of Rust crates with their versions, and names and banners that C libraries
/// of unikernels print. What leaves no trace is not found.
fn libraries(bytes: &[u8]) -> Vec<String> {
    const BANNERS: [(&str, &str); 12] = [
        ("lwIP", "lwip"),
        ("musl", "musl libc"),
        ("newlib", "newlib"),
        ("OpenSSL", "OpenSSL "),
        ("mbed TLS", "mbedtls"),
        ("zlib", " inflate 1."),
        ("SQLite", "SQLite format 3"),
        ("nginx", "nginx/"),
        ("Redis", "Redis version"),
        ("Unikraft", "Unikraft"),
        ("Solo5", "Solo5:"),
        ("OCaml run-time", "caml_startup"),
    ];
    // A panic's place: `…/index.crates.io-1949cf8c6b5b557f/smoltcp-0.14.0/src/…` (cargo's folder of registries).
    let crates = regex::bytes::Regex::new(
        r"registry/src/[^/\x00]{1,80}/([A-Za-z0-9_-]{1,60}?)-(\d+\.\d+\.\d+[A-Za-z0-9.+-]{0,20})/",
    );
    let mut found: Vec<String> = crates
        .iter()
        .flat_map(|pattern| pattern.captures_iter(bytes))
        .map(|found| format!("{} {}", String::from_utf8_lossy(&found[1]), String::from_utf8_lossy(&found[2])))
        .collect();
    for (name, banner) in BANNERS {
        let quoted = regex::bytes::Regex::new(&format!("(?-u){}", regex::escape(banner)));
        if quoted.is_ok_and(|pattern| pattern.is_match(bytes)) {
            found.push(name.to_owned());
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn count(facts: &BTreeMap<String, Measured<Fact>>, key: &str) -> Option<u64> {
        facts.get(key)?.value()?.count
    }

    /// On this machine, which is a Linux with everything that the script asks for.
    #[test]
    fn the_script_asks_a_real_linux() {
        let output = Command::new("sh")
            .args(["-c", &SCRIPT.replace("find / -xdev", "find /bin/ /usr/bin -xdev")])
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let facts = of_linux(&String::from_utf8(output.stdout).unwrap()).unwrap();
        assert_eq!(facts.len(), FACTS.len());
        for key in ["processes", "suid", "shells"] {
            assert!(count(&facts, key) > Some(0), "{key}: {facts:?}");
        }
        let Some(Measured::Value(shells)) = facts.get("shells") else { panic!("{facts:?}") };
        assert!(shells.items.contains(&"root".to_owned()));
        assert!(facts["symbols"].why().is_some_and(|why| why.contains("Linux")));
    }

    #[test]
    fn reasons_states_and_zero_are_told_apart() {
        let said = "noise\n@processes\n@listening\ntcp 0100007F:0016\ntcp6 00000000000000000000000001000000:0050\nudp x\n\
                    @packages\n!none\n@lockdown\n=[none] integrity\n@unknown\nx\n@end\n";
        let facts = of_linux(said).unwrap();
        assert_eq!(count(&facts, "processes"), Some(0));
        let listening = facts["listening"].value().unwrap();
        assert_eq!(listening.items, ["tcp 127.0.0.1:22", "tcp [::1]:80", "udp x"]);
        assert_eq!(facts["packages"], Measured::NotApplicable("none".to_owned()));
        assert_eq!(facts["lockdown"].value().unwrap().items, ["[none] integrity"]);
        assert!(of_linux("@processes\nsystemd\n").is_err());
    }

    #[cfg(hello_x86_64)]
    #[test]
    fn hello_is_made_of_what_its_manifest_names() {
        let facts = elf(crate::image::hello::HELLO_X86_64);
        assert_eq!(count(&facts, "writable_code"), Some(0));
        assert!(count(&facts, "symbols").is_some());
        let manifest = include_str!("../../../guest/Cargo.toml");
        for library in &facts["libraries"].value().unwrap().items {
            let name = library.split(' ').next().unwrap();
            let lock = include_str!("../../../guest/Cargo.lock");
            assert!(manifest.contains(name) || lock.contains(&format!("name = \"{name}\"")), "{library}");
        }
    }

    #[test]
    fn what_is_no_elf_says_so() {
        let facts = elf(b"HdrS");
        assert!(facts.len() == 3 && facts["symbols"].why().is_some_and(|why| why.contains("no ELF")));
    }

    #[test]
    fn libraries_leave_traces() {
        let bytes = b"\0/root/.cargo/registry/src/index.crates.io-19/smoltcp-0.14.0/src/x.rs\0musl libc\xff";
        assert_eq!(libraries(bytes), ["musl", "smoltcp 0.14.0"]);
    }
}
