//! Disks of other hypervisors, converted by qemu-img.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::ImportError;

/// The longest description that is looked through, in bytes; qemu-img's own limit is lower.
const LONGEST_DESCRIPTION: u64 = 1 << 20;

/// A format that qemu-img converts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    Vmdk,
    Vhdx,
}

impl Foreign {
    /// qemu-img's name of it.
    fn driver(self) -> &'static str {
        match self {
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
        }
    }
}

/// Converts the open disk `file` to qcow2; `source` is its name. qemu-img is given the file of this very descriptor, with its format, and
/// no parent disk, whatever the disk or its name may say.
pub(super) fn convert(source: &Path, file: &File, format: Foreign, target: &Path) -> Result<(), ImportError> {
    if format == Foreign::Vmdk {
        stands_alone(file).map_err(|what| ImportError::Unusable { path: source.to_owned(), what })?;
    }
    let name = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let mut options = serde_json::json!({
        "driver": format.driver(),
        "read-only": true,
        "file": { "driver": "file", "filename": name },
    });
    if format == Foreign::Vmdk {
        options["backing"] = serde_json::Value::Null;
    }
    let output = Command::new("qemu-img")
        .args(["convert", "-O", "qcow2", &format!("json:{options}")])
        .arg(target)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ImportError::NoQemuImg(format.driver())),
        Err(source) => return Err(ImportError::Io { what: "run", path: "qemu-img".into(), source }),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("No space left on device") {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        return Err(ImportError::Io { what: "write", path: target.to_owned(), source });
    }
    // The JSON is of no use to anybody.
    let said = said.trim().rsplit("': ").next().unwrap_or_default().to_owned();
    Err(ImportError::Convert { path: source.to_owned(), format: format.driver(), said })
}

/// Whether a VMDK file names no other: neither a parent nor parts of its content. (Virtual Disk Format 5.0, "Hosted Sparse Extent Header":
/// capacity at 12, place and length of the description at 28 and 36, in sectors.)
fn stands_alone(file: &File) -> Result<(), String> {
    let mut header = [0; 44];
    file.read_exact_at(&mut header, 0).map_err(|_| "it is cut off within its header".to_owned())?;
    let long =
        |at: usize| header[at..at + 8].iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let joined = "join them: qemu-img convert -O qcow2 FILE joined.qcow2";
    if long(12) == 0 {
        // QEMU then goes by the description alone, which may name any file.
        return Err(format!("its content lies in other files; {joined}"));
    }
    let (place, length) = (long(28).saturating_mul(512), long(36).saturating_mul(512));
    if place == 0 {
        return Ok(());
    }
    if length > LONGEST_DESCRIPTION {
        return Err("its description is longer than any".to_owned());
    }
    let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut text, place).map_err(|_| "it is cut off within its description".to_owned())?;
    let text = String::from_utf8_lossy(&text);
    let setting = |name: &str| {
        text.lines().find_map(|line| {
            Some(line.trim().strip_prefix(name)?.trim_start().strip_prefix('=')?.trim().to_owned())
        })
    };
    let parent = setting("parentCID").filter(|id| !id.eq_ignore_ascii_case("ffffffff"));
    if parent.is_some() || setting("parentFileNameHint").is_some() {
        return Err(format!("it stands on another disk; {joined}"));
    }
    Ok(())
}
