//! The images that can be pulled by name; `catalogue.json` lists them.

use serde::Deserialize;

use crate::spec::Arch;

/// The list, as it is in the program.
const TEXT: &str = include_str!("catalogue.json");

/// All images that can be pulled by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// How every address begins; a mirror's takes its place.
    base: String,
    images: Vec<Entry>,
}

/// One image for one instruction set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it is called, such as `debian:12-genericcloud`.
    pub name: String,
    /// What it runs on.
    pub arch: Arch,
    /// Where it is.
    pub url: String,
    /// Where its publisher's sums are.
    pub sums: String,
}

impl Catalogue {
    /// The list in the program.
    ///
    /// # Errors
    /// When it is no list, which a test rules out.
    pub fn read() -> Result<Self, serde_json::Error> {
        serde_json::from_str(TEXT)
    }

    /// The names in it, each once.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.images.iter().map(|entry| entry.name.as_str()).collect();
        names.dedup();
        names
    }

    /// The image of this name for an instruction set, with its addresses at a mirror where one is named. A name without a variant,
    /// `debian:12`, means the one for clouds.
    #[must_use]
    pub fn find(&self, name: &str, arch: Arch, mirror: Option<&str>) -> Option<Entry> {
        let cloud = format!("{name}-genericcloud");
        let wanted = |entry: &&Entry| (entry.name == name || entry.name == cloud) && entry.arch == arch;
        let mut entry = self.images.iter().find(wanted)?.clone();
        if let Some(mirror) = mirror {
            for url in [&mut entry.url, &mut entry.sums] {
                if let Some(rest) = url.strip_prefix(&self.base) {
                    *url = format!("{}{rest}", mirror.trim_end_matches('/'));
                }
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageName;

    #[test]
    fn every_image_is_there_for_both_instruction_sets_and_can_be_mirrored() {
        let catalogue = Catalogue::read().unwrap();
        let expected =
            ["debian:12-genericcloud", "debian:12-nocloud", "debian:13-genericcloud", "debian:13-nocloud"];
        assert_eq!(catalogue.names(), expected);
        for name in expected {
            name.parse::<ImageName>().unwrap();
            for (arch, word) in [(Arch::X86_64, "amd64"), (Arch::Aarch64, "arm64")] {
                let entry = catalogue.find(name, arch, Some("http://mirror.example/cloud/")).unwrap();
                assert!(
                    entry.url.starts_with("http://mirror.example/cloud/") && entry.url.contains(word),
                    "{entry:?}"
                );
                assert!(entry.sums.starts_with("http://mirror.example/cloud/"), "{entry:?}");
                let own = catalogue.find(name, arch, None).unwrap();
                assert!(own.url.starts_with("https://") && own.sums.ends_with("/SHA512SUMS"), "{own:?}");
            }
        }
    }

    #[test]
    fn a_release_alone_means_its_image_for_clouds() {
        let catalogue = Catalogue::read().unwrap();
        assert_eq!(catalogue.find("debian:13", Arch::X86_64, None).unwrap().name, "debian:13-genericcloud");
        assert_eq!(catalogue.find("debian:11", Arch::X86_64, None), None);
    }
}
