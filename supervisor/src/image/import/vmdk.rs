//! What a VMDK disk says of other files.

use crate::image::contents::ReadAt;

/// The longest description that is looked through, in bytes; qemu-img's own limit is lower.
const LONGEST_DESCRIPTION: u64 = 1 << 20;

/// Whether a VMDK file names no other: neither a parent nor parts of its content. (Virtual Disk Format 5.0, "Hosted Sparse Extent Header":
/// capacity at 12, place and length of the description at 28 and 36, in sectors.)
///
/// # Errors
/// In what way it does, or that it is cut off.
pub fn stands_alone(file: &dyn ReadAt) -> Result<(), String> {
    let mut header = [0; 44];
    file.read_at(0, &mut header).map_err(|_| "it is cut off within its header".to_owned())?;
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
    file.read_at(place, &mut text).map_err(|_| "it is cut off within its description".to_owned())?;
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
