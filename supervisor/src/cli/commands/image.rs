//! `image build`, `pull`, `import`, `ls`, `rm`, `inspect`, `verify`, `prune`.

use serde::Serialize;

use crate::cli::args::{Format, ImagePruneArgs, ImageVerb, Output};
use crate::cli::context::{Context, each};
use crate::cli::table::Table;
use crate::cli::{Outcome, fetch, images, output, units};
use crate::image::contents::Firmware;
use crate::image::{Image, Manifest};

/// `midge image`.
pub(super) fn image(context: &Context, verb: &ImageVerb) -> Outcome {
    match verb {
        ImageVerb::Build(args) => print(&images::build_named(context, args)?, args.output),
        ImageVerb::Pull(args) => print(&fetch::pull(context, args)?, args.output),
        ImageVerb::Import(args) => print(&fetch::import(context, args)?, args.output),
        ImageVerb::Prune(args) => prune(context, args),
        ImageVerb::Ls(args) => ls(context, args.output),
        ImageVerb::Rm(args) => each(&args.names, |name| {
            images::remove(context, name, args.dry_run)?;
            if args.output.json() {
                output::json(&Removed { name, removed: !args.dry_run })
            } else {
                if args.dry_run {
                    context.voice.note(format_args!("`{name}` would be removed"));
                }
                Ok(())
            }
        }),
        ImageVerb::Inspect(args) => {
            let image = images::find(context, &args.name, false)?;
            output::json_pretty(&Inspected { folder: &image.folder, manifest: &image.manifest })?;
            Ok(0)
        }
        ImageVerb::Verify(args) => verify(context, &args.names, args.output),
    }
}

/// Prints an image that is there now.
fn print(image: &Image, format: Output) -> Outcome {
    if format.json() {
        output::json(&Inspected { folder: &image.folder, manifest: &image.manifest })?;
    } else {
        output::line(&image.manifest.name)?;
    }
    Ok(0)
}

fn prune(context: &Context, args: &ImagePruneArgs) -> Outcome {
    let pruned = images::prune_all(context, args.dry_run)?;
    if args.output.json() {
        output::json_lines(&pruned)?;
        return Ok(0);
    }
    let total: u64 = pruned.iter().map(|pruned| pruned.bytes).sum();
    output::print(|out| {
        pruned.iter().try_for_each(|p| writeln!(out, "{} {}", p.path.display(), units::bytes(p.bytes)))
    })?;
    let what = if args.dry_run { "would be removed" } else { "removed" };
    context.voice.note(format_args!("{} {what}", units::bytes(total)));
    Ok(0)
}

#[derive(Serialize)]
struct Removed<'a> {
    name: &'a str,
    removed: bool,
}

#[derive(Serialize)]
struct Verified<'a> {
    name: &'a str,
    intact: bool,
}

#[derive(Serialize)]
struct Inspected<'a> {
    folder: &'a std::path::Path,
    manifest: &'a Manifest,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    digest: &'a str,
    kind: crate::spec::Kind,
    arch: crate::spec::Arch,
    created: &'a str,
    size_bytes: u64,
    /// What boots it: `direct` (its kernel), `bios` or `uefi`.
    boot: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<&'a str>,
    source: &'a str,
}

fn ls(context: &Context, format: Output) -> Outcome {
    let listing = images::list(context)?;
    for (name, error) in &listing.damaged {
        let error = anyhow::Error::msg(error.to_string());
        context.voice.note(format_args!("the image in the folder `{name}` is left out: {error:#}"));
    }
    let manifests = || listing.images.iter().map(|image| &image.manifest);
    match format.format {
        _ if context.voice.quiet => {
            output::print(|out| manifests().try_for_each(|m| writeln!(out, "{}", m.name)))?;
        }
        Format::Name => output::print(|out| manifests().try_for_each(|m| writeln!(out, "{}", m.name)))?,
        Format::Json => output::json_lines(manifests().map(|m| Line {
            name: &m.name,
            digest: &m.digest,
            kind: m.kind,
            arch: m.arch,
            created: &m.created,
            size_bytes: size(m),
            boot: match m.firmware.as_ref().map(|boot| boot.firmware) {
                None => "direct",
                Some(Firmware::Bios) => "bios",
                Some(Firmware::Uefi) => "uefi",
            },
            os: m.os.as_deref(),
            source: &m.source,
        }))?,
        Format::Table | Format::Wide => {
            let mut table = Table::new(["NAME", "KIND", "ARCH", "SIZE", "DISK", "CREATED", "DIGEST"]);
            for m in manifests() {
                table.row([
                    m.name.clone(),
                    m.kind.to_string(),
                    m.arch.to_string(),
                    units::bytes(size(m)),
                    m.disk.as_ref().map(|disk| units::bytes(disk.virtual_size)).unwrap_or_default(),
                    m.created.parse().map_or_else(|_| m.created.clone(), units::moment),
                    m.digest.strip_prefix("sha256:").unwrap_or(&m.digest).chars().take(12).collect(),
                ]);
            }
            output::table(&table)?;
        }
    }
    Ok(0)
}

/// What an image's files take.
fn size(manifest: &Manifest) -> u64 {
    manifest.parts().into_iter().flatten().map(|part| part.size).sum()
}

fn verify(context: &Context, names: &[String], format: Output) -> Outcome {
    let names = match names {
        [] => images::list(context)?.images.into_iter().map(|image| image.manifest.name).collect(),
        names => names.to_vec(),
    };
    each(&names, |name| {
        images::verify(context, name)?;
        if format.json() {
            return output::json(&Verified { name, intact: true });
        }
        output::line(format_args!("{name}: its files are those of its digests"))
    })
}
