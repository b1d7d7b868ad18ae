//! The archive that the kernel unpacks as its first root (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::{self, Write};

use cpio::newc::{self, Builder};

/// File types and permissions (inode(7)).
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// The archive: the program, the modules in their order, and the folders that are mounted on. It is not packed: unpacking takes an
/// emulated guest longer than QEMU takes to hand over a few hundred kilobytes more.
pub(super) fn write(init: &[u8], modules: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(&["proc", "sys", "root"])?;
    archive.program("init", init)?;
    archive.modules(modules)?;
    archive.finish()
}

/// An archive that is being written.
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// One with these folders, `/dev` with the console in it, and a place for modules.
    pub(super) fn new(folders: &[&str]) -> io::Result<Self> {
        let mut archive = Self { bytes: Vec::new(), inode: 0 };
        for folder in ["dev"].iter().chain(folders).chain(&["m"]) {
            archive.add(folder, FOLDER, (0, 0), &[])?;
        }
        // The kernel opens it for its first program (console(4)), before that can make any node.
        archive.add("dev/console", CHARACTER_DEVICE, (5, 1), &[])?;
        Ok(archive)
    }

    /// A file that may be run.
    pub(super) fn program(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.add(name, PROGRAM, (0, 0), content)
    }

    /// The modules in the order in which they are to be loaded, and a list of their paths in `/modules`.
    pub(super) fn modules(&mut self, modules: &[(String, Vec<u8>)]) -> io::Result<()> {
        let list = modules.iter().fold(String::new(), |list, (name, _)| list + "/m/" + name + "\n");
        self.add("modules", PLAIN, (0, 0), list.as_bytes())?;
        for (name, content) in modules {
            self.add(&format!("m/{name}"), PLAIN, (0, 0), content)?;
        }
        Ok(())
    }

    /// The whole.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        newc::trailer(self.bytes)
    }

    fn add(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let entry = Builder::new(name).ino(self.inode).mode(mode).rdev_major(major).rdev_minor(minor);
        let mut writer = entry.write(&mut self.bytes, size);
        writer.write_all(content)?;
        writer.finish().map(|_| ())
    }
}

#[cfg(test)]
pub(super) fn names(archive: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    walk(archive, |name, _| names.push(name.to_owned()));
    names
}

#[cfg(test)]
pub(super) fn content(archive: &[u8], wanted: &str) -> Vec<u8> {
    let mut found = Vec::new();
    walk(archive, |name, content| {
        if name == wanted {
            found = content;
        }
    });
    found
}

#[cfg(test)]
fn walk(archive: &[u8], mut each: impl FnMut(&str, Vec<u8>)) {
    let mut rest = archive;
    loop {
        let mut reader = newc::Reader::new(rest).unwrap();
        if reader.entry().is_trailer() {
            return;
        }
        let mut content = Vec::new();
        io::Read::read_to_end(&mut reader, &mut content).unwrap();
        let name = reader.entry().name().to_owned();
        each(&name, content);
        rest = reader.finish().unwrap();
    }
}
