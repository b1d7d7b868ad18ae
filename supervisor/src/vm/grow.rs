//! Making the guest's partition and root file system as large as its disk has become, through its agent.
//!
//! Images that midge builds do that by themselves, and so does cloud-init where it runs; others need to be told. Once for each size.

use std::time::Duration;

use ::qmp::agent::{Agent, Exec, Exit};

use super::driver::Input;
use super::guest_agent::AGENT_DEADLINE;
use super::history::Happening;
use super::shared::Shared;
use crate::image::overlay;
use crate::machine::DiskFormat;
use crate::spec::Size;
use crate::store::VmDir;

/// What is run in the guest; its one argument is where the file system is mounted. It prints the size in bytes that the file
/// system then has, and says on standard error why it could not do its work.
pub const SCRIPT: &str = include_str!("grow.sh");
/// Says for which size of the disk it has been done, in a VM's folder.
const MARK: &str = "grown";
/// How long it may take: a large file system under emulation.
const DEADLINE: Duration = Duration::from_secs(600);

/// The size of a VM's disk, where it is larger than the image's and the guest is not known to use it.
pub(super) fn wanted(dir: &VmDir, image_size: u64) -> Option<Size> {
    let size = overlay::virtual_size(&dir.disk(), DiskFormat::Qcow2).ok()?;
    let done = std::fs::read_to_string(dir.state_dir().join(MARK)).ok();
    let done = done.and_then(|text| text.trim().parse::<u64>().ok());
    (size > image_size && done != Some(size)).then(|| Size::from_bytes(size))
}

/// Has the guest's root file system fill the disk of this size, and tells how it went.
pub(super) async fn grow(shared: &Shared, agent: &Agent, size: Size) {
    let happening = match run(agent).await {
        Ok(filled) => {
            let mark = shared.dir().state_dir().join(MARK);
            if let Err(e) = std::fs::write(&mark, format!("{}\n", size.bytes())) {
                tracing::warn!("cannot note in {} that the disk has been grown: {e}", mark.display());
            }
            Happening::DiskGrown { disk: size, file_system: filled }
        }
        Err(reason) => {
            tracing::warn!("the guest's root file system was not grown: {reason}");
            Happening::DiskNotGrown { disk: size, reason }
        }
    };
    shared.tell(Input::Happened(happening));
}

async fn run(agent: &Agent) -> Result<u64, String> {
    let exec = Exec::new("/bin/sh").args(["-c", SCRIPT, "grow", "/"].map(str::to_owned));
    let failed = |e: ::qmp::Error| format!("the agent could not do it: {e}");
    let pid = agent.exec(&exec, AGENT_DEADLINE).await.map_err(failed)?;
    let done = agent.exec_wait(pid, DEADLINE).await.map_err(failed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match (done.exit, text(&done.stdout).parse()) {
        (Exit::Code(0), Ok(filled)) => Ok(filled),
        _ => {
            let said = text(&done.stderr);
            let last = said.lines().last().unwrap_or("it did not say why");
            Err(last.chars().take(300).collect())
        }
    }
}
