//! Disks of other hypervisors, converted by qemu-img.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{ImportError, vmdk};

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
        vmdk::stands_alone(file).map_err(|what| ImportError::Unusable { path: source.to_owned(), what })?;
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
