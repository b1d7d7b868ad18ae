//! `snapshot ls`.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::Extent;
use crate::cli::args::{Format, SnapshotLsArgs};
use crate::cli::context::Context;
use crate::cli::exit::Failed;
use crate::cli::table::Table;
use crate::cli::{Outcome, output, snapshots, units};
use crate::error;
use crate::snapshot::SnapshotError;
use crate::snapshot::store::{Listing, Sizes, Snapshot, SnapshotStore, Unreadable, User, tree};

/// Whether a snapshot can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// As far as can be told without reading all of it.
    Whole,
    /// Something of it is missing or wrong.
    Damaged,
    /// It has no name any more; files of it stay for those who need them.
    Removed,
}

/// One line of `snapshot ls -o json`. A field that is not known is absent.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    state: State,
    /// Why it is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// What it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Extent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Uuid>,
    /// How many of its ancestors are in the list.
    depth: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taken: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_bytes: Option<u64>,
    users: Vec<User>,
}

/// `midge snapshot ls`: every snapshot there is. A damaged one is a row, not a failure.
pub(super) fn ls(context: &Context, args: &SnapshotLsArgs) -> Outcome {
    let store = snapshots::store(context)?;
    let rows = rows(&store, args.vm.as_deref())?;
    // A name that leads to nothing any more is no use to a script.
    let names = || rows.iter().filter(|row| row.state != State::Removed).map(|row| &row.name);
    match args.output.format {
        Format::Json => output::json_lines(&rows)?,
        Format::Name => output::print(|out| names().try_for_each(|name| writeln!(out, "{name}")))?,
        _ if context.voice.quiet => {
            output::print(|out| names().try_for_each(|name| writeln!(out, "{name}")))?;
        }
        format => {
            output::table(&table(&rows, format == Format::Wide, Timestamp::now()))?;
            for (row, problem) in rows.iter().filter_map(|row| Some((row, row.problem.as_ref()?))) {
                context.voice.note(format_args!("`{}`: {problem}", row.name));
            }
        }
    }
    Ok(0)
}

fn rows(store: &SnapshotStore, vm: Option<&str>) -> Result<Vec<Row>, Failed> {
    let listing = store.list()?;
    let users = store.all_users(&listing)?;
    let Listing { snapshots, damaged } = listing;
    let mut found: Vec<(Snapshot, Vec<User>)> = snapshots.into_iter().zip(users).collect();
    found.retain(|(snapshot, _)| vm.is_none_or(|vm| snapshot.manifest.name.vm() == vm));
    let links: Vec<_> = found.iter().map(|(s, _)| (s.id(), s.manifest.parent)).collect();
    let mut rows = Vec::new();
    for branch in tree(&links) {
        let (snapshot, users) = &found[branch.index];
        let sizes = store.sizes(snapshot)?;
        let problem = store.check_links(snapshot).err();
        // Removed while it was looked at.
        if problem.is_none() || snapshot.folder.exists() {
            rows.push(row(snapshot, users.clone(), sizes, branch.depth, problem));
        }
    }
    let of_vm = |broken: &&Unreadable| vm.is_none_or(|vm| broken.names.iter().any(|name| name.vm() == vm));
    rows.extend(damaged.iter().filter(of_vm).map(broken_row));
    Ok(rows)
}

fn row(
    snapshot: &Snapshot,
    users: Vec<User>,
    sizes: Sizes,
    depth: usize,
    problem: Option<SnapshotError>,
) -> Row {
    let manifest = &snapshot.manifest;
    Row {
        name: snapshot.shown(),
        id: Some(snapshot.id()),
        state: match &problem {
            Some(_) => State::Damaged,
            None if snapshot.names.is_empty() => State::Removed,
            None => State::Whole,
        },
        problem: problem.map(|e| error::chain(&e)),
        kind: Some(Extent::of(manifest)),
        parent: manifest.parent,
        depth,
        image: manifest.image.as_ref().map(|image| image.name.clone()),
        taken: Some(manifest.taken),
        pause_us: manifest.pause_us,
        own_bytes: Some(sizes.own),
        shared_bytes: Some(sizes.shared),
        users,
    }
}

fn broken_row(broken: &Unreadable) -> Row {
    let folder = || broken.folder.file_name().unwrap_or_default().display().to_string();
    Row {
        name: broken.names.first().map_or_else(folder, ToString::to_string),
        id: None,
        state: State::Damaged,
        problem: Some(error::chain(&broken.error)),
        kind: None,
        parent: None,
        depth: 0,
        image: None,
        taken: None,
        pause_us: None,
        own_bytes: None,
        shared_bytes: None,
        users: Vec::new(),
    }
}

fn table(rows: &[Row], wide: bool, now: Timestamp) -> Table {
    let columns = ["NAME", "KIND", "STATE", "IMAGE", "OWN", "SHARED", "PAUSE", "AGE", "USED BY"];
    let more = ["TAKEN", "ID"];
    let more = if wide { &more[..] } else { &[] };
    let mut table = Table::new(columns.iter().chain(more).copied());
    for row in rows {
        let mut cells = vec![
            format!("{}{}", "  ".repeat(row.depth), row.name),
            row.kind.map(Extent::word).unwrap_or_default().to_owned(),
            match row.state {
                State::Whole => "whole",
                State::Damaged => "damaged",
                State::Removed => "removed",
            }
            .to_owned(),
            row.image.clone().unwrap_or_default(),
            row.own_bytes.map(units::bytes).unwrap_or_default(),
            row.shared_bytes.map(units::bytes).unwrap_or_default(),
            row.pause_us.map(units::milliseconds).unwrap_or_default(),
            row.taken.map(|taken| units::age(units::between(taken, now))).unwrap_or_default(),
            clones(&row.users),
        ];
        if wide {
            cells.extend([
                row.taken.map(units::moment).unwrap_or_default(),
                row.id.map(|id| id.to_string()).unwrap_or_default(),
            ]);
        }
        table.row(cells);
    }
    table
}

/// The VMs among the users: which snapshots stand on it is seen by the tree.
fn clones(users: &[User]) -> String {
    let vms = users.iter().filter_map(|user| match user {
        User::Clone(name) | User::Disk(name) | User::Kernel(name) => Some(name.as_str()),
        User::SnapshotRam(_) | User::SnapshotDisk(_) => None,
    });
    vms.collect::<Vec<_>>().join(" ")
}
