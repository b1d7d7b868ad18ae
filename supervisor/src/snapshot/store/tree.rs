//! Snapshots as the tree that they are, with what each takes.

use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;

use super::{Snapshot, SnapshotStore};
use crate::snapshot::error::SnapshotError;
use crate::snapshot::qcow2;

/// What a snapshot takes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Allocated on the disk for it alone. A file whose blocks are shared with another (by reflink) counts in full.
    pub own: u64,
    /// Allocated for files that it needs and that are others': of snapshots that it stands on and of its image.
    pub shared: u64,
}

/// A snapshot's place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// Which of the snapshots that were given.
    pub index: usize,
    /// How many ancestors of it are among them.
    pub depth: usize,
}

/// The order in which a tree is shown: each snapshot behind its parent, siblings as they were given. One whose parent is not among
/// them stands by itself.
#[must_use]
pub fn tree(snapshots: &[(Uuid, Option<Uuid>)]) -> Vec<Branch> {
    let known = |id: Uuid| snapshots.iter().any(|(other, _)| *other == id);
    let mut branches: Vec<Branch> = Vec::new();
    let mut next: Vec<Branch> = Vec::new();
    let children = |of: Option<Uuid>, depth: usize, next: &mut Vec<Branch>| {
        for (index, (_, parent)) in snapshots.iter().enumerate().rev() {
            if parent.filter(|parent| known(*parent)) == of {
                next.push(Branch { index, depth });
            }
        }
    };
    children(None, 0, &mut next);
    while let Some(branch) = next.pop() {
        branches.push(branch);
        children(snapshots.get(branch.index).map(|(id, _)| *id), branch.depth + 1, &mut next);
    }
    // Manifests that were edited by hand may name each other as parents: nothing is left out for that.
    let left = (0..snapshots.len()).filter(|index| !branches.iter().any(|branch| branch.index == *index));
    let left: Vec<Branch> = left.map(|index| Branch { index, depth: 0 }).collect();
    branches.extend(left);
    branches
}

impl SnapshotStore {
    /// What a snapshot takes.
    pub fn sizes(&self, snapshot: &Snapshot) -> Result<Sizes, SnapshotError> {
        let own = super::reclaim::allocated(&snapshot.folder)?;
        let mut others: Vec<PathBuf> = Vec::new();
        if let Some(base) = snapshot.manifest.ram.as_ref().and_then(|ram| ram.base) {
            others.push(self.folder(base).join(crate::snapshot::manifest::RAM));
        }
        // Down the chain of the disk as QEMU would open it.
        let mut layer = snapshot
            .manifest
            .disk
            .as_ref()
            .and_then(|disk| disk.layers.last())
            .map(|part| snapshot.path(&part.file));
        while let Some(path) = layer {
            layer = qcow2::backing(&path).ok().flatten().filter(|below| !others.contains(below));
            others.extend(layer.clone());
        }
        let size = |path: &PathBuf| {
            std::fs::metadata(path).map_or(0, |about| std::os::unix::fs::MetadataExt::blocks(&about) * 512)
        };
        let shared = others.iter().filter(|path| !is_in(path, &snapshot.folder)).map(size).sum();
        Ok(Sizes { own, shared })
    }
}

fn is_in(path: &Path, folder: &Path) -> bool {
    path.parent() == Some(folder)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn shown(given: &[(u128, Option<u128>)]) -> Vec<(usize, usize)> {
        let given: Vec<_> = given.iter().map(|(own, parent)| (id(*own), parent.map(id))).collect();
        tree(&given).into_iter().map(|branch| (branch.index, branch.depth)).collect()
    }

    #[test]
    fn children_follow_their_parent() {
        assert_eq!(
            shown(&[(1, None), (2, None), (3, Some(1)), (4, Some(3)), (5, Some(1))]),
            [(0, 0), (2, 1), (3, 2), (4, 1), (1, 0)]
        );
        assert_eq!(shown(&[(2, Some(1))]), [(0, 0)], "its parent was removed");
        assert_eq!(shown(&[(1, Some(2)), (2, Some(1)), (3, None)]), [(2, 0), (0, 0), (1, 0)]);
    }

    proptest! {
        #[test]
        fn everyone_is_shown_once(parents in prop::collection::vec(prop::option::of(0_u128..12), 0..12)) {
            let given: Vec<_> =
                (0..).zip(&parents).map(|(own, parent)| (id(own), parent.map(id))).collect();
            let mut indices: Vec<usize> = tree(&given).iter().map(|branch| branch.index).collect();
            indices.sort_unstable();
            prop_assert_eq!(indices, (0..given.len()).collect::<Vec<_>>());
        }
    }
}
