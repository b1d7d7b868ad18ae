//! A guest that runs: its memory at idle and under load, what it offers to an attacker, and what it does when it is asked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::guests::Contender;
use super::trial::{Trial, Trials};
use crate::cli::exit::{ExitKind, Failed};
use crate::compare::results::{Guest, Memory, Surface, Systemd, Workload};
use crate::compare::{Measured, Results, Section, load, memory, surface, systemd, wire};
use crate::image::busybox;
use crate::spec::{Kind, Ready};
use crate::store::Heard;
use crate::vm::control::{Family, Request};

/// How long after ready a guest counts as idle, where it cannot say so itself.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a script in the guest may take: on an emulated CPU, a look at every file takes a while.
const SCRIPT: Duration = Duration::from_secs(180);
/// How long an address, or an answer on a port, may take.
const REACHED: Duration = Duration::from_secs(30);
/// How many connections at once.
const CONNECTIONS: [u32; 3] = [1, 8, 64];
/// How many pings.
const PINGS: u16 = 50;
/// The port of the server that midge starts in a guest.
const PORT: u16 = 8080;
/// The folder of its page.
const FOLDER: &str = "/run/midge-compare";
/// How often the CPU loop runs.
const LOOPS: usize = 5;
/// A page for when no guest brings one: 512 bytes.
const PAGE: [u8; 512] = [b'm'; 512];

/// The servers that a guest may have, the most usual first: how to tell, what it is called, and how to start it. `$1` is the port, `$2`
/// the folder with the page.
const SERVERS: [(&str, &str, &str); 4] = [
    (
        "command -v nginx",
        "nginx -v 2>&1 | sed 's/.*: //'",
        "printf 'error_log /dev/null; pid %s/pid; events {} http { access_log off; server { listen %s; root %s; } }' \"$2\" \"$1\" \"$2\" > \"$2/nginx.conf\" && \
         nginx -c \"$2/nginx.conf\"",
    ),
    (
        "busybox --list | grep -qx httpd",
        "echo \"$(busybox | sed -n '1s/^\\(BusyBox v[^ ]*\\).*/\\1/p') httpd\"",
        "busybox httpd -p \"$1\" -h \"$2\"",
    ),
    (
        "command -v python3",
        "echo \"$(python3 --version) http.server\"",
        "setsid python3 -m http.server -d \"$2\" \"$1\" >/dev/null 2>&1 </dev/null &",
    ),
    (
        "perl -MIO::Socket::INET -e 1",
        "perl -e 'printf qq(Perl %vd, a loop of ten lines (server.pl)\\n), $^V'",
        "setsid perl \"$2/server.pl\" \"$1\" \"$2/index.html\" >/dev/null 2>&1 </dev/null &",
    ),
];
const PERL: &str = include_str!("server.pl");

/// Where a port of a guest is reached.
#[derive(Debug, Deserialize)]
struct Reached {
    address: IpAddr,
    port: u16,
}

/// Measures every guest, those first that bring a page of their own, as the others are to serve the same.
pub(super) fn measure(
    trials: &Trials<'_>,
    contenders: &[Contender],
    results: &mut Results,
) -> Result<(), Failed> {
    let mut page: Option<Vec<u8>> = None;
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    order.sort_by_key(|index| contenders[*index].has_agent() || takes_page(&contenders[*index]));
    for index in order {
        if trials.interrupted().is_some() {
            return Ok(());
        }
        let (contender, only) = (&contenders[index], results.settings.only.clone());
        if results.guests[index].boots.iter().all(|boot| boot.failed.is_some()) {
            // It is told with its failed boots.
            continue;
        }
        trials.progress.step(&format!("{} boots, to be looked at", contender.name));
        let bytes = page.clone().unwrap_or_else(|| PAGE.to_vec());
        let trial = trials.boot(contender, trials.args.timeout, |spec| {
            if takes_page(contender) {
                let word = format!("{}{}", busybox::PAGE_WORD, BASE64.encode(&bytes));
                let before = spec.boot.append.take().map(|words| words + " ").unwrap_or_default();
                spec.boot.append = Some(before + &word);
            }
        })?;
        let mut look = Look { trials, contender, trial, only: &only, page: bytes };
        look.all(&mut results.guests[index]);
        if page.is_none() && !contender.has_agent() && !takes_page(contender) {
            page = results.guests[index].workload.as_ref().and_then(|_| look.own_page());
        }
    }
    Ok(())
}

/// Whether a guest without an agent is told its page by its kernel's command line.
fn takes_page(contender: &Contender) -> bool {
    contender.manifest.as_ref().is_some_and(|manifest| manifest.name == busybox::NAME)
}

/// A guest that is being looked at.
struct Look<'a> {
    trials: &'a Trials<'a>,
    contender: &'a Contender,
    trial: Trial<'a>,
    only: &'a [Section],
    page: Vec<u8>,
}

impl Look<'_> {
    fn wanted(&self, section: Section) -> bool {
        self.only.contains(&section)
    }

    fn step(&self, what: &str) {
        self.trials.progress.step(&format!("{}: {what}", self.contender.name));
    }

    fn going_on(&self) -> bool {
        self.trials.interrupted().is_none()
    }

    fn all(&mut self, guest: &mut Guest) {
        let failed = self.trial.boot.failed.clone();
        let failed = failed.as_deref();
        // What a signal cut short is left out: it says nothing of the guest.
        if self.wanted(Section::Boot) {
            let said = self.systemd(failed);
            guest.systemd = self.going_on().then_some(said);
        } else if failed.is_none() {
            self.settle();
        }
        if self.wanted(Section::Memory) && self.going_on() {
            let memory = self.memory(failed);
            guest.idle = self.going_on().then_some(memory);
        }
        if self.wanted(Section::Surface) && self.going_on() {
            let surface = self.surface(guest, failed);
            guest.surface = self.going_on().then_some(surface);
        }
        if (self.wanted(Section::Workload) || self.wanted(Section::Memory)) && self.going_on() {
            let (workload, loaded) = self.workload(failed);
            if self.going_on() {
                guest.loaded = self.wanted(Section::Memory).then_some(loaded);
                guest.workload = self.wanted(Section::Workload).then_some(workload);
            }
        }
    }

    /// Waits until nothing goes on any more.
    fn settle(&self) {
        if self.contender.has_agent() {
            // What it answers does not matter: it waits.
            let _ = self.trial.shell("systemctl is-system-running --wait", &[], SCRIPT);
        }
        let _ = self.trial.ends_within(SETTLE);
    }

    fn systemd(&self, failed: Option<&str>) -> Measured<Systemd> {
        if let Some(why) = failed {
            return Measured::Failed(why.to_owned());
        }
        if !self.contender.has_agent() {
            self.settle();
            return Measured::NotApplicable(no_agent(self.contender));
        }
        self.step("systemd-analyze");
        let said = self.trial.shell(systemd::SCRIPT, &[], SCRIPT);
        self.settle();
        match said {
            Ok((127, _)) => Measured::NotApplicable("the guest has no systemd-analyze".to_owned()),
            Ok((_, text)) => Systemd::read(&text).map_or_else(
                || {
                    Measured::Failed(format!(
                        "systemd-analyze said: {}",
                        text.trim().chars().take(200).collect::<String>()
                    ))
                },
                Measured::Value,
            ),
            Err(failed) => Measured::Failed(format!("{:#}", failed.error)),
        }
    }

    fn memory(&self, failed: Option<&str>) -> Measured<Memory> {
        if let Some(why) = failed {
            return Measured::Failed(why.to_owned());
        }
        self.step("memory");
        let Some(mut found) = self.trial.memory() else {
            return Measured::Failed("it ended before it could be looked at".to_owned());
        };
        if self.contender.has_agent()
            && let Ok((0, text)) = self.trial.shell("cat /proc/meminfo", &[], SCRIPT)
        {
            found.meminfo = memory::meminfo(&text);
        }
        Measured::Value(found)
    }

    fn surface(&self, guest: &Guest, failed: Option<&str>) -> Surface {
        self.step("attack surface");
        let mut found = Surface::default();
        if self.contender.spec.kind == Kind::Linux {
            let facts = match failed {
                Some(why) => Err(Measured::Failed(why.to_owned())),
                None if !self.contender.has_agent() => Err(Measured::NotApplicable(no_agent(self.contender))),
                None => match self.trial.shell(surface::SCRIPT, &[], SCRIPT) {
                    Ok((_, said)) => surface::of_linux(&said).map_err(Measured::Failed),
                    Err(failed) => Err(Measured::Failed(format!("{:#}", failed.error))),
                },
            };
            found.facts = facts.unwrap_or_else(|why| {
                surface::FACTS.iter().map(|(key, _)| ((*key).to_owned(), why.clone())).collect()
            });
        } else {
            let kernel =
                guest.command_line.windows(2).find(|pair| pair[0] == "-kernel").map(|pair| pair[1].clone());
            found.facts = match kernel.map(|path| surface::of_elf(path.as_ref())) {
                Some(Ok(facts)) => facts,
                Some(Err(e)) => all(&Measured::Failed(format!("the kernel cannot be read: {e}"))),
                None => all(&Measured::NotApplicable(
                    "it boots from its disk: there is no kernel file to look at".to_owned(),
                )),
            };
        }
        let (tcp, udp) = match (failed, self.own_address()) {
            (Some(why), _) => (Measured::Failed(why.to_owned()), Measured::Failed(why.to_owned())),
            (None, Err(why)) => (why.clone(), why),
            (None, Ok(address)) => {
                self.step("its ports");
                let measured = |ports: std::io::Result<_>| {
                    ports.map_or_else(|e| Measured::Failed(e.to_string()), Measured::Value)
                };
                (measured(wire::tcp(address.into())), measured(wire::udp(address.into())))
            }
        };
        (found.tcp, found.udp) = (Some(tcp), Some(udp));
        found
    }

    /// The guest's own address, where this host can reach it.
    fn own_address<T>(&self) -> Result<Ipv4Addr, Measured<T>> {
        if !self.contender.spec.nets.iter().any(crate::spec::Net::has_tap) {
            let why = "QEMU's user-mode network hides the guest: there is no tap through which this host could reach it";
            return Err(Measured::NotApplicable(why.to_owned()));
        }
        let within_ms = u64::try_from(REACHED.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Addresses { family: Family::V4, source: None, within_ms };
        let value = self
            .trial
            .ask(&request, REACHED + SETTLE)
            .map_err(|failed| Measured::Failed(format!("{:#}", failed.error)))?;
        let heard: Vec<Heard> = serde_json::from_value(value).unwrap_or_default();
        heard
            .iter()
            .find_map(|heard| match heard.address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .ok_or_else(|| Measured::Failed("the guest has no address".to_owned()))
    }

    fn reach(&self, port: u16) -> Result<SocketAddr, Failed> {
        let value = self.trial.ask(&Request::Reach { port }, REACHED)?;
        let reached: Reached = serde_json::from_value(value)
            .map_err(|e| Failed::wrap(ExitKind::Other, e).context("the VM's supervisor named no port"))?;
        Ok((reached.address, reached.port).into())
    }

    /// The page that it serves by itself.
    fn own_page(&self) -> Option<Vec<u8>> {
        load::fetch(self.reach(self.contender.http.port).ok()?, &self.contender.http.path).ok()
    }

    fn workload(&self, failed: Option<&str>) -> (Workload, Measured<Memory>) {
        let mut work = Workload::default();
        if let Some(why) = failed {
            work.http.push(Measured::Failed(why.to_owned()));
            return (work, Measured::Failed(why.to_owned()));
        }
        if self.wanted(Section::Workload) {
            work.ping = Some(self.ping());
            work.cpu = Some(self.cpu());
        }
        self.step("requests");
        let served = if self.contender.has_agent() { self.serve() } else { self.serves() };
        let (server, port, path) = match served {
            Ok(served) => served,
            Err(why) => {
                let loaded = match &why {
                    Measured::Failed(why) => Measured::Failed(why.clone()),
                    Measured::NotApplicable(why) => Measured::NotApplicable(why.clone()),
                    Measured::Value(never) => match *never {},
                };
                let why = why.why().unwrap_or_default().to_owned();
                work.http.push(Measured::NotApplicable(why));
                return (work, loaded);
            }
        };
        work.server = Some(server);
        let mut loaded = Measured::NotApplicable("no load was measured".to_owned());
        for connections in CONNECTIONS {
            if !self.going_on() {
                break;
            }
            self.step(&format!("requests over {connections} connections"));
            let address = match self.reach(port) {
                Ok(address) => address,
                Err(failed) => {
                    work.http.push(Measured::Failed(format!("{:#}", failed.error)));
                    break;
                }
            };
            let tap = self.contender.spec.nets.iter().any(crate::spec::Net::has_tap);
            work.path = Some(if tap {
                format!("at its own address, through its tap (port {port})")
            } else {
                format!(
                    "through a forwarded port and QEMU's user-mode network, which is much of what is measured (port {port})"
                )
            });
            let time = self.trials.args.load;
            let most = connections == CONNECTIONS[CONNECTIONS.len() - 1];
            let measured = std::thread::scope(|scope| {
                let requests = scope.spawn(|| load::run(address, &path, connections, time));
                if most {
                    // In the middle of the load; a guest that ends is told by what comes after.
                    let _ = self.trial.ends_within(time / 2);
                    loaded = self.memory(None);
                }
                requests.join()
            });
            work.http.push(match measured {
                Ok(Ok(http)) => Measured::Value(http),
                Ok(Err(e)) => Measured::Failed(e.to_string()),
                Err(_) => Measured::Failed("the client broke off".to_owned()),
            });
        }
        (work, loaded)
    }

    /// What the guest serves by itself.
    fn serves(&self) -> Result<(String, u16, String), Measured<std::convert::Infallible>> {
        let http = &self.contender.http;
        let nothing = |why: &dyn std::fmt::Display| {
            Measured::NotApplicable(format!(
                "nothing serves HTTP on its port {}, and no agent could start a server: {why}",
                http.port
            ))
        };
        self.trial
            .shows(Ready::Tcp(http.port), REACHED)
            .map_err(|failed| nothing(&format!("{:#}", failed.error)))?;
        let address = self.reach(http.port).map_err(|failed| nothing(&format!("{:#}", failed.error)))?;
        let page = load::fetch(address, &http.path).map_err(|e| nothing(&e))?;
        let same = if page == self.page { ", the same bytes" } else { "" };
        let what = if takes_page(self.contender) { "BusyBox httpd" } else { "its own server" };
        Ok((format!("{what}, {} B{same}", page.len()), http.port, http.path.clone()))
    }

    /// Starts a server in the guest that serves the page.
    fn serve(&self) -> Result<(String, u16, String), Measured<std::convert::Infallible>> {
        let failed = |failed: Failed| Measured::Failed(format!("{:#}", failed.error));
        for (probe, name, start) in SERVERS {
            let (code, _) =
                self.trial.shell(&format!("{{ {probe}; }} >/dev/null 2>&1"), &[], SCRIPT).map_err(failed)?;
            if code != 0 {
                continue;
            }
            let put = "mkdir -p \"$1\" && printf %s \"$2\" | base64 -d > \"$1/index.html\" && printf %s \"$3\" | base64 -d > \"$1/server.pl\"";
            let files = [FOLDER, &BASE64.encode(&self.page), &BASE64.encode(PERL)];
            let (code, _) = self.trial.shell(put, &files, SCRIPT).map_err(failed)?;
            if code != 0 {
                return Err(Measured::Failed(format!(
                    "the page could not be written to {FOLDER} in the guest"
                )));
            }
            let (_, name) = self.trial.shell(name, &[], SCRIPT).map_err(failed)?;
            let (code, _) = self.trial.shell(start, &[&PORT.to_string(), FOLDER], SCRIPT).map_err(failed)?;
            if code != 0 {
                return Err(Measured::Failed(format!("{} did not start in the guest", name.trim())));
            }
            self.trial.shows(Ready::Tcp(PORT), REACHED).map_err(failed)?;
            let text =
                format!("{}, started by the agent, {} B, the same bytes", name.trim(), self.page.len());
            return Ok((text, PORT, "/".to_owned()));
        }
        let why = "the guest has no HTTP server (nginx, busybox httpd, python3 and perl were looked for); an image has one when it was built --with one";
        Err(Measured::NotApplicable(why.to_owned()))
    }

    fn ping(&self) -> Measured<Vec<f64>> {
        let address = match self.own_address() {
            Ok(address) => address,
            Err(why) => return why,
        };
        self.step("ping");
        match wire::ping(address, PINGS) {
            Ok(trips) if trips.is_empty() => {
                Measured::Failed(format!("{address} answered none of {PINGS} pings"))
            }
            Ok(trips) => Measured::Value(trips),
            Err(e) => Measured::Failed(format!("cannot ping: {e}")),
        }
    }

    /// The same loop in every guest that runs programs: a shell that counts to a hundred thousand.
    fn cpu(&self) -> Measured<Vec<f64>> {
        if !self.contender.has_agent() {
            return Measured::NotApplicable(
                "it runs no program that is handed to it: the loop is one of a POSIX shell, started by an agent".to_owned(),
            );
        }
        self.step("CPU loop");
        // Its time as the guest's kernel counts it, user and system, so that the agent's own way is not in it (times(1p)).
        let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; times";
        let mut seconds = Vec::new();
        for _ in 0..LOOPS {
            match self.trial.shell(script, &[], SCRIPT) {
                Ok((_, said)) => match times(&said) {
                    Some(time) => seconds.push(time),
                    None => return Measured::Failed(format!("the guest's times said: {}", said.trim())),
                },
                Err(failed) => return Measured::Failed(format!("{:#}", failed.error)),
            }
        }
        Measured::Value(seconds)
    }
}

fn no_agent(contender: &Contender) -> String {
    match contender.spec.kind {
        Kind::Linux => "the guest has no agent to be asked by".to_owned(),
        _ => "it is no Linux".to_owned(),
    }
}

fn all<T: Clone>(why: &Measured<T>) -> std::collections::BTreeMap<String, Measured<T>> {
    surface::FACTS.iter().map(|(key, _)| ((*key).to_owned(), why.clone())).collect()
}

/// The shell's own user and system time, of the first line that `times` prints: `0m1.23s 0m0.45s`.
fn times(said: &str) -> Option<f64> {
    let one = |word: &str| {
        let (minutes, seconds) = word.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    let line = said.lines().next()?;
    let words: Option<Vec<f64>> = line.split_ascii_whitespace().map(one).collect();
    words.filter(|words| words.len() == 2).map(|words| words.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shells_times_are_read() {
        assert_eq!(times("1m2.50s 0m0.25s\n0m0s 0m0s\n"), Some(62.75));
        assert_eq!(times("nonsense"), None);
        assert_eq!(times(""), None);
    }
}
