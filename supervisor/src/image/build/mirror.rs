//! Where Debian's packages come from: the mirrors that this machine itself uses, read from apt's settings.

use std::fs;
use std::path::Path;

/// Mirrors of Debian's archive and of its security updates, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirrors {
    pub(super) archive: String,
    pub(super) security: String,
}

/// The suites of Debian's archive by which a source is known as a mirror of Debian, and not of another distribution.
const DEBIAN_SUITES: [&str; 7] =
    ["bullseye", "bookworm", "trixie", "forky", "oldstable", "stable", "testing"];

const ARCHIVE: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://deb.debian.org/debian-security";

impl Mirrors {
    /// Those of the machine whose apt settings are in `etc_apt`, and Debian's own where it names none.
    pub(super) fn of_machine(etc_apt: &Path) -> Self {
        let mut entries = Vec::new();
        let mut read = |path: &Path| {
            let Ok(text) = fs::read_to_string(path) else { return };
            match path.extension().and_then(|e| e.to_str()) {
                Some("list") => entries.extend(text.lines().filter_map(one_line)),
                Some("sources") => entries.extend(stanzas(&text)),
                _ => {}
            }
        };
        read(&etc_apt.join("sources.list"));
        let mut parts: Vec<_> = fs::read_dir(etc_apt.join("sources.list.d"))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        parts.sort();
        for path in &parts {
            read(path);
        }
        Self::among(&entries)
    }

    fn among(entries: &[Source]) -> Self {
        let with_suite = |wanted: fn(&str) -> bool| {
            entries
                .iter()
                .filter(|source| source.suites.iter().any(|suite| wanted(suite)))
                .find_map(|source| source.uris.iter().find(|uri| is_usable(uri)))
                .map(|uri| uri.trim_end_matches('/').to_owned())
        };
        Self {
            archive: with_suite(|suite| DEBIAN_SUITES.contains(&suite)).unwrap_or_else(|| ARCHIVE.to_owned()),
            security: with_suite(|suite| {
                suite.strip_suffix("-security").is_some_and(|name| DEBIAN_SUITES.contains(&name))
            })
            .unwrap_or_else(|| SECURITY.to_owned()),
        }
    }

    /// The lines of sources.list(5) for one release.
    pub(super) fn sources(&self, suite: &str) -> String {
        let Self { archive, security } = self;
        format!(
            "deb {archive} {suite} main\ndeb {archive} {suite}-updates main\ndeb {security} {suite}-security main"
        )
    }
}

/// Whether a text is an address that apt can fetch from and that one word of sources.list(5) can hold.
pub(super) fn is_usable(uri: &str) -> bool {
    ["http://", "https://", "file:/"].iter().any(|scheme| uri.len() > scheme.len() && uri.starts_with(scheme))
        && !uri.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '[' | ']' | '#'))
}

/// One entry of apt's settings that is in force for binary packages.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
}

/// The one-line style: `deb [options] uri suite components`.
fn one_line(line: &str) -> Option<Source> {
    let rest = line.split('#').next()?.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix(|c: char| c.is_whitespace())?.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace().map(ToOwned::to_owned);
    Some(Source { uris: vec![words.next()?], suites: vec![words.next()?] })
}

/// The deb822 style: stanzas of `Field: value`, divided by empty lines.
fn stanzas(text: &str) -> Vec<Source> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.trim().is_empty())
        .filter_map(|stanza| {
            let field = |name: &str| -> Option<Vec<String>> {
                let mut values = None;
                let mut inside = false;
                for line in stanza {
                    if line.starts_with([' ', '\t']) {
                        // Goes on from the line before.
                        if let (true, Some(values)) = (inside, values.as_mut()) {
                            Vec::extend(values, line.split_whitespace().map(ToOwned::to_owned));
                        }
                        continue;
                    }
                    let (key, value) = line.split_once(':')?;
                    inside = key.trim().eq_ignore_ascii_case(name);
                    if inside {
                        values = Some(value.split_whitespace().map(ToOwned::to_owned).collect());
                    }
                }
                values
            };
            let off =
                |value: &String| matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "off" | "0");
            if field("Enabled").is_some_and(|values| values.iter().any(off))
                || !field("Types")?.iter().any(|kind| kind == "deb")
            {
                return None;
            }
            Some(Source { uris: field("URIs")?, suites: field("Suites")? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn machine(files: &[(&str, &str)]) -> Mirrors {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Mirrors::of_machine(folder.path())
    }

    #[test]
    fn deb822_sources_are_read() {
        let mirrors = machine(&[
            (
                "sources.list.d/other.sources",
                "Types: deb\nURIs: http://packages.example.org/x\nSuites: nodistro\nComponents: main\n",
            ),
            (
                "sources.list.d/debian.sources",
                "# a comment\nTypes: deb deb-src\nURIs:\n http://mirror.example.net/debian/\nSuites: bookworm bookworm-updates\n\
                 Components: main\n\nTypes: deb\nURIs: http://mirror.example.net/debian-security\nSuites: bookworm-security\n",
            ),
        ]);
        assert_eq!(mirrors.archive, "http://mirror.example.net/debian");
        assert_eq!(mirrors.security, "http://mirror.example.net/debian-security");
    }

    #[test]
    fn one_line_sources_are_read() {
        let mirrors = machine(&[(
            "sources.list",
            "deb-src http://src.example/debian trixie main\n# deb http://off.example/debian trixie main\n\
             deb [arch=arm64 signed-by=/k.gpg] https://a.example/debian trixie main # near\n\
             deb http://s.example/debian-security trixie-security main\n",
        )]);
        assert_eq!(
            mirrors,
            Mirrors {
                archive: "https://a.example/debian".into(),
                security: "http://s.example/debian-security".into()
            }
        );
    }

    #[test]
    fn other_distributions_and_disabled_sources_do_not_count() {
        let ours = Mirrors { archive: ARCHIVE.into(), security: SECURITY.into() };
        assert_eq!(machine(&[("sources.list", "deb http://archive.ubuntu.com/ubuntu noble main\n")]), ours);
        let disabled = "Types: deb\nURIs: http://x.example/debian\nSuites: trixie\nEnabled: no\n";
        assert_eq!(machine(&[("sources.list.d/a.sources", disabled)]), ours);
        assert_eq!(machine(&[("sources.list", "deb cdrom:[Debian]/ bookworm main\n")]), ours);
        assert_eq!(Mirrors::of_machine(Path::new("/nonexistent")), ours);
    }

    #[test]
    fn a_release_has_its_updates_and_security_suites() {
        let mirrors = Mirrors { archive: "http://a/d".into(), security: "http://s/d".into() };
        assert_eq!(
            mirrors.sources("trixie"),
            "deb http://a/d trixie main\ndeb http://a/d trixie-updates main\ndeb http://s/d trixie-security main"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(?s)([A-Za-z]{0,8}[: #\\[\\]\n\t]{1,3}){0,12}|.{0,200}") {
            let _ = stanzas(&text);
            let _: Vec<_> = text.lines().filter_map(one_line).collect();
        }
    }
}
