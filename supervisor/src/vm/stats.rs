//! What a VM uses, seen from the host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

use qapi::qmp;
use serde_json::{Value, json};

use super::control::Failure;
use super::link::MONITOR_DEADLINE;
use super::shared::Shared;

/// CPU time, memory, disk and block I/O of a running VM, as `midge stats` shows them. Sizes in bytes.
///
/// Memory comes from `/proc/PID/smaps_rollup` (proc_pid_smaps(5)): RSS counts shared pages in full, so the proportional
/// and the private share are what a further VM costs.
pub(super) async fn collect(shared: &Rc<Shared>) -> Result<Value, Failure> {
    let link = shared.link()?;
    let monitor = link.monitor()?;
    let run = shared.snapshot.borrow().run.clone();
    let pid = link.process_id().map(|id| id.pid);
    let memory = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok());
    let kib = |key: &str| memory.as_deref().and_then(|text| rollup(text, key)).map(|k| k * 1024);
    let allocated = |path: &std::path::Path| fs::metadata(path).map(|m| m.blocks() * 512).ok();
    let blocks = monitor
        .execute(qmp::query_blockstats { query_nodes: None }, MONITOR_DEADLINE)
        .await
        .unwrap_or_default();
    let sum = |field: fn(&qmp::BlockDeviceStats) -> i64| blocks.iter().map(|b| field(&b.stats)).sum::<i64>();
    let uptime = run.started.map(|t| jiff::Timestamp::now().duration_since(t).as_secs_f64());
    Ok(json!({
        "pid": pid,
        "uptime_seconds": uptime,
        "cpu_seconds": pid.and_then(cpu_seconds),
        "rss": kib("Rss"),
        "pss": kib("Pss"),
        "private": kib("Private_Dirty"),
        "ram_touched": run.ram_file.as_deref().and_then(allocated),
        "disk_allocated": allocated(&shared.dir().disk()),
        "disk_read_bytes": sum(|s| s.rd_bytes),
        "disk_written_bytes": sum(|s| s.wr_bytes),
        "disk_reads": sum(|s| s.rd_operations),
        "disk_writes": sum(|s| s.wr_operations),
    }))
}

/// The memory that a process has to itself, in bytes.
#[must_use]
pub fn private_memory(pid: u32) -> Option<u64> {
    let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(rollup(&memory, "Private_Dirty")? * 1024)
}

/// A line of `smaps_rollup`, in KiB.
fn rollup(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse().ok())
}

/// User and system time of a process: fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)).
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    #[allow(clippy::cast_precision_loss, reason = "ticks since the start of a process are far below 2^52")]
    Some(ticks as f64 / per_second as f64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_rollup_is_read_by_its_keys() {
        let text = "00400000-7ffd rollup\nRss:  1024 kB\nPss:  512 kB\nPss_Dirty:  8 kB\n";
        assert_eq!(super::rollup(text, "Pss"), Some(512));
        assert_eq!(super::rollup(text, "Swap"), None);
    }
}
