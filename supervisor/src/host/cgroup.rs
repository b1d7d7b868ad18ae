//! The control group that this process, and every QEMU it starts, is in.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::root::HostRoot;

/// Which control groups the host has (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// Not mounted.
    None,
    /// The old kind, one tree per controller.
    V1,
    /// The unified tree alone.
    V2,
    /// Both: controllers in the old trees, a unified tree beside them.
    Hybrid,
}

/// This process's place in the control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Which there are.
    pub version: CgroupVersion,
    /// The memory controller's group.
    memory: Option<MemoryGroup>,
}

/// A limit on memory by a control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimit {
    /// The limit, in bytes.
    pub bytes: u64,
    /// What the group uses of it, in bytes, without file cache that can be dropped.
    pub used: u64,
    /// The folder of the group that limits.
    pub group: PathBuf,
}

impl MemoryLimit {
    /// What is left, in bytes.
    #[must_use]
    pub const fn room(&self) -> u64 {
        self.bytes.saturating_sub(self.used)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct MemoryGroup {
    /// Which files it has.
    unified: bool,
    /// Where the tree is mounted.
    mount: PathBuf,
    /// The group's folder, at or below `mount`.
    folder: PathBuf,
}

impl Cgroup {
    /// Reads `/proc/self/cgroup` and `/proc/self/mountinfo`.
    #[must_use]
    pub fn of(root: &HostRoot) -> Self {
        let read = |file| root.read(file).unwrap_or_default();
        let mut cgroup = Self::parse(&read("proc/self/cgroup"), &read("proc/self/mountinfo"));
        if let Some(memory) = &mut cgroup.memory {
            memory.mount = root.path(&memory.mount);
            memory.folder = root.path(&memory.folder);
        }
        cgroup
    }

    fn parse(membership: &str, mountinfo: &str) -> Self {
        let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(Mount::parse).collect();
        let unified = mounts.iter().find(|mount| mount.kind == "cgroup2");
        let old = mounts.iter().find(|mount| mount.kind == "cgroup" && mount.has("memory"));
        let any_old = mounts.iter().any(|mount| mount.kind == "cgroup");
        let version = match (unified.is_some(), any_old) {
            (false, false) => CgroupVersion::None,
            (false, true) => CgroupVersion::V1,
            (true, false) => CgroupVersion::V2,
            (true, true) => CgroupVersion::Hybrid,
        };
        // A controller is in one tree only: when an old tree has it, the unified one has not.
        let memory = match (old, unified) {
            (Some(mount), _) => path_of(membership, |hierarchy, controllers| {
                hierarchy != "0" && controllers.split(',').any(|name| name == "memory")
            })
            .map(|path| mount.group(path, false)),
            (None, Some(mount)) => {
                path_of(membership, |hierarchy, _| hierarchy == "0").map(|path| mount.group(path, true))
            }
            (None, None) => None,
        };
        Self { version, memory }
    }

    /// The limit with the least room left, of this group and those above it. None where nothing limits.
    #[must_use]
    pub fn memory_limit(&self) -> Option<MemoryLimit> {
        let group = self.memory.as_ref()?;
        let above = group.folder.ancestors().take_while(|folder| folder.starts_with(&group.mount));
        above.filter_map(|folder| group.limit(folder)).min_by_key(MemoryLimit::room)
    }

    /// How many processes of this group the kernel has killed for want of memory; none where it does not count.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        let group = self.memory.as_ref()?;
        // `oom_kill` in memory.events (cgroup-v2.rst) and, since Linux 4.13, in memory.oom_control (memory.rst).
        let file = if group.unified { "memory.events" } else { "memory.oom_control" };
        number_after(&std::fs::read_to_string(group.folder.join(file)).ok()?, "oom_kill")
    }
}

impl MemoryGroup {
    fn limit(&self, folder: &Path) -> Option<MemoryLimit> {
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let (limit, usage) = if self.unified {
            ("memory.max", "memory.current")
        } else {
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
        };
        // "max" does not parse; the old tree writes no limit as the largest number of whole pages.
        let bytes: u64 = read(limit)?.trim().parse().ok()?;
        if bytes >= 1 << 60 {
            return None;
        }
        let usage: u64 = read(usage)?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        let cache =
            number_after(&stat, "total_inactive_file").or_else(|| number_after(&stat, "inactive_file"));
        Some(MemoryLimit { bytes, used: usage.saturating_sub(cache.unwrap_or(0)), group: folder.to_owned() })
    }
}

/// The number on the line that begins with this word.
fn number_after(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The path of the line of `/proc/PID/cgroup` (`hierarchy:controllers:path`) that `wanted` picks.
fn path_of(membership: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<&str> {
    membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        wanted(hierarchy, controllers).then_some(path)
    })
}

/// What is needed of a line of mountinfo (proc_pid_mountinfo(5)).
struct Mount<'a> {
    /// The folder of the file system that is mounted.
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (place, system) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut system = system.split(' ');
        Some(Self {
            root: place.next()?,
            point: place.next()?,
            kind: system.next()?,
            options: system.nth(1)?,
        })
    }

    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|word| word == option)
    }

    /// The folder of the group `path`. A container may see its tree mounted from the middle (`root`), or be told
    /// a path that is not below what it sees: then the mount itself is the nearest group there is.
    fn group(&self, path: &str, unified: bool) -> MemoryGroup {
        let below = Path::new(path).strip_prefix(self.root).ok();
        let below =
            below.filter(|path| !path.components().any(|part| part == std::path::Component::ParentDir));
        let mount = PathBuf::from(self.point);
        let folder = match below {
            Some(path) if path.as_os_str().is_empty() => mount.clone(),
            Some(path) => mount.join(path),
            None => mount.clone(),
        };
        MemoryGroup { unified, mount, folder }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                          35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                          40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
                          41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn folder(membership: &str, mountinfo: &str) -> (CgroupVersion, Option<PathBuf>) {
        let cgroup = Cgroup::parse(membership, mountinfo);
        (cgroup.version, cgroup.memory.map(|group| group.folder))
    }

    #[test]
    fn parse_finds_the_memory_group() {
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(
            folder("0::/user.slice/session-1.scope\n", V2),
            (CgroupVersion::V2, at("/sys/fs/cgroup/user.slice/session-1.scope"))
        );
        assert_eq!(
            folder("9:name=systemd:/\n4:memory:/jobs/a:b\n0::/\n", HYBRID),
            (CgroupVersion::Hybrid, at("/sys/fs/cgroup/memory/jobs/a:b"))
        );
        let old = HYBRID.lines().filter(|line| !line.contains("cgroup2")).collect::<Vec<_>>().join("\n");
        assert_eq!(folder("4:cpu,memory:/\n", &old), (CgroupVersion::V1, at("/sys/fs/cgroup/memory")));
        assert_eq!(folder("0::/\n", ""), (CgroupVersion::None, None));
    }

    #[test]
    fn parse_in_a_container_stays_within_what_it_sees() {
        let mounted = "5 4 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let memory = |membership| folder(membership, mounted).1.unwrap();
        assert_eq!(memory("4:memory:/docker/abc/x\n"), Path::new("/sys/fs/cgroup/memory/x"));
        assert_eq!(memory("4:memory:/docker/abc\n"), Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(memory("4:memory:/elsewhere\n"), Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(folder("0::/../../init.scope\n", V2).1.unwrap(), Path::new("/sys/fs/cgroup"));
    }

    /// A recorded tree of the unified kind.
    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/self/cgroup", "0::/a/b\n");
        write("proc/self/mountinfo", V2);
        for (file, text) in files {
            write(&format!("sys/fs/cgroup/{file}"), text);
        }
        let cgroup = Cgroup::of(&HostRoot::at(folder.path()));
        (folder, cgroup)
    }

    #[test]
    fn memory_limit_is_the_tightest_on_the_way_up() {
        let (folder, cgroup) = tree(&[
            ("a/b/memory.max", "max\n"),
            ("a/b/memory.current", "100\n"),
            ("a/memory.max", "1000\n"),
            ("a/memory.current", "700\n"),
            ("a/memory.stat", "anon 500\ninactive_file 150\nactive_file 50\n"),
        ]);
        let limit = cgroup.memory_limit().unwrap();
        assert_eq!((limit.bytes, limit.used, limit.room()), (1000, 550, 450));
        assert_eq!(limit.group, folder.path().join("sys/fs/cgroup/a"));
    }

    #[test]
    fn memory_limit_is_none_where_nothing_limits() {
        assert_eq!(tree(&[("a/b/memory.max", "max\n")]).1.memory_limit(), None);
        assert_eq!(
            tree(&[("a/b/memory.max", "9223372036854771712\n"), ("a/b/memory.current", "1\n")])
                .1
                .memory_limit(),
            None
        );
    }

    #[test]
    fn oom_kills_are_counted_by_their_own_line() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(tree(&[("a/b/memory.events", events)]).1.oom_kills(), Some(2));
        assert_eq!(tree(&[("a/b/memory.events", "low 0\n")]).1.oom_kills(), None);
        assert_eq!(number_after("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "oom_kill"), Some(7));
    }
}
