//! Which modules a module needs, from what depmod(8) wrote.

use std::collections::{BTreeMap, BTreeSet};

/// The modules of one kernel, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// For each module its path and those of all that it needs, in the order of the file: what must be loaded first comes last.
    modules: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl Dependencies {
    /// Reads `modules.dep` (modules.dep(5)) and `modules.builtin` (Linux, Documentation/kbuild/kbuild.rst). Lines that are none are
    /// passed over.
    #[must_use]
    pub fn read(dep: &str, builtin: &str) -> Self {
        let modules = dep.lines().filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            let path = path.trim();
            let needs = needs.split_ascii_whitespace().filter(|path| is_plain(path));
            is_plain(path).then(|| (key(path), (path.to_owned(), needs.map(str::to_owned).collect())))
        });
        Self { modules: modules.collect(), builtin: builtin.lines().map(str::trim).map(key).collect() }
    }

    /// Whether the kernel has this module, built in or to be loaded.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.builtin.contains(&key(name)) || self.modules.contains_key(&key(name))
    }
}

/// The paths of all modules to load for these, each after those that it needs and none twice. What is built in, or unknown, needs none.
#[must_use]
pub fn order<'a>(dependencies: &Dependencies, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in names {
        let name = key(name);
        if dependencies.builtin.contains(&name) {
            continue;
        }
        let Some((path, needs)) = dependencies.modules.get(&name) else { continue };
        for path in needs.iter().rev().chain([path]) {
            if seen.insert(key(path)) {
                paths.push(path.clone());
            }
        }
    }
    paths
}

/// A module's name in its file's path: without folder and endings.
pub(super) fn name_of(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file)
}

/// The name to compare by: to the kernel `-` and `_` are the same (modprobe(8)).
fn key(path: &str) -> String {
    name_of(path).replace('-', "_")
}

/// A path within the modules' folder.
fn is_plain(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEP: &str = "kernel/net/virtio_net.ko.xz: kernel/net/net_failover.ko.xz kernel/net/failover.ko.xz kernel/v/virtio.ko.xz\n\
                       kernel/net/net_failover.ko.xz: kernel/net/failover.ko.xz\n\
                       kernel/net/failover.ko.xz:\n\
                       kernel/v/virtio.ko.xz:\n\
                       kernel/b/virtio-blk.ko.xz: kernel/v/virtio.ko.xz\n";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let dependencies = Dependencies::read(DEP, "kernel/fs/ext4/ext4.ko\n");
        let paths = order(&dependencies, ["virtio_blk", "ext4", "virtio_net", "nonsense"]);
        let names: Vec<&str> = paths.iter().map(|path| name_of(path)).collect();
        assert_eq!(names, ["virtio", "virtio-blk", "failover", "net_failover", "virtio_net"]);
        assert!(dependencies.has("ext4") && dependencies.has("virtio-net") && !dependencies.has("xfs"));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_passed_over() {
        let dependencies = Dependencies::read("../a.ko:\n/b.ko:\nc.ko: ../d.ko e.ko\nno colon\n: x.ko\n", "");
        assert_eq!(order(&dependencies, ["a", "b", "c"]), ["e.ko", "c.ko"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_no_module_comes_twice(dep in "([a-z./:-]| |\n|\u{e9}){0,200}", names in prop::collection::vec("[a-z_]{0,4}", 0..5)) {
            let dependencies = Dependencies::read(&dep, &dep);
            let paths = order(&dependencies, names.iter().map(String::as_str));
            let keys: BTreeSet<String> = paths.iter().map(|path| key(path)).collect();
            prop_assert_eq!(keys.len(), paths.len());
            prop_assert!(paths.iter().all(|path| is_plain(path)));
        }
    }
}
