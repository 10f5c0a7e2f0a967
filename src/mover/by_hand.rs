//! `embassy mover` without a cluster: directories and snapshots.

use super::archive::{Job, archive};
use super::args::{Backup, Init, Restore, Snapshots, Verify};
use super::error::{MoverError, RepoError, RestoreError};
use super::prove::{Scope, compare};
use super::repo::{self, Indexed, Opened};
use super::restore::{self, restore};
use super::run::Run;
use super::wanted::Wanted;
use crate::api::report::MoverReason;
use rustic_core::repofile::SnapshotFile;
use rustic_core::{CheckOptions, Open, ReadSubsetOption, Repository, TreeId};
use std::path::{Path, PathBuf};

/// `backup --source`.
pub fn backup(run: &mut Run, args: &Backup) -> Result<(), MoverError> {
    let source = args
        .source
        .as_deref()
        .ok_or_else(|| MoverError::Usage("say what to back up: --source DIR, or --dispatch".to_owned()))?;
    // The path in the snapshot is the parent's key: it must not depend on where we stand.
    let as_path = source
        .canonicalize()
        .map_err(|error| super::error::SourceError::Missing { path: source.to_owned(), source: error })?;
    let opened = run.open(&args.access, args.init)?;
    let parent = if args.force { None } else { last_of(&opened, &args.host, &as_path)? };
    let repository = repo::index(opened)?;
    let job = Job {
        source: &as_path,
        as_path: &as_path,
        host: &args.host,
        tags: &args.tag,
        time: jiff::Timestamp::now(),
        parent: parent.as_ref(),
        identity: args.identity,
    };
    let archived = archive(&repository, &job, &run.progress)?;
    run.report.bytes_added = archived.added;
    run.report.message = format!(
        "snapshot {} of {}: {} entries, {} bytes",
        archived.snapshot.id.to_hex().as_str(),
        as_path.display(),
        archived.entries,
        archived.bytes
    );
    run.progress.nothing_missed(&run.report.message)
}

fn is_of(snapshot: &SnapshotFile, host: &str, path: &Path) -> bool {
    let mut paths = snapshot.paths.iter();
    snapshot.hostname == host
        && paths.next().is_some_and(|first| Path::new(first) == path)
        && paths.next().is_none()
}

fn last_of<S: Open>(
    repository: &Repository<S>,
    host: &str,
    path: &Path,
) -> Result<Option<SnapshotFile>, RepoError> {
    let mut all = repo::snapshots(repository)?;
    all.retain(|snapshot| is_of(snapshot, host, path));
    Ok(all.pop())
}

/// Finds a snapshot by id, start of an id, or `latest`.
fn find(repository: &Opened, wanted: &str) -> Result<SnapshotFile, MoverError> {
    let mut all = repo::snapshots(repository)?;
    if wanted != "latest" {
        all.retain(|snapshot| snapshot.id.to_hex().as_str().starts_with(wanted));
        if all.len() > 1 {
            return Err(MoverError::Usage(format!("{wanted} begins the id of {} snapshots", all.len())));
        }
    } else if let Some(last) = all.last()
        && all.iter().any(|other| other.time == last.time && other.id != last.id)
    {
        // The volumes of a dispatch have one time: which of them would be the latest is chance, and
        // `--delete` would wipe the target for it.
        let usage = "`latest` is not one snapshot: several have that time, as the volumes of a dispatch have; see \
                     `mover snapshots` and give an id, or restore a dispatch with --dispatch";
        return Err(MoverError::Usage(usage.to_owned()));
    }
    all.pop().ok_or_else(|| RestoreError::NoSnapshot(wanted.to_owned()).into())
}

/// The directory that a snapshot is of: the one path it has, or all of it.
fn root_of(repository: &Indexed, snapshot: &SnapshotFile) -> Result<(TreeId, Option<Wanted>), MoverError> {
    let paths: Vec<PathBuf> = snapshot.paths.iter().map(PathBuf::from).collect();
    if let [path] = paths.as_slice()
        && let Some(node) = repo::node_at(repository, snapshot.tree, path)?
        && let Some(tree) = node.subtree
    {
        return Ok((tree, Some(Wanted::from_node(&node))));
    }
    Ok((snapshot.tree, None))
}

/// `restore --snapshot`.
pub fn restore_snapshot(run: &mut Run, args: &Restore) -> Result<(), MoverError> {
    let (Some(wanted), Some(target)) = (&args.snapshot, &args.target) else {
        let usage = "say what to restore: --snapshot ID --target DIR, or --dispatch";
        return Err(MoverError::Usage(usage.to_owned()));
    };
    let opened = run.open(&args.access, false)?;
    let snapshot = find(&opened, wanted)?;
    let repository = repo::index(opened)?;
    let (tree, root) = root_of(&repository, &snapshot)?;
    if args.dry_run {
        return dry_run(run, &repository, tree, root.as_ref(), args, target);
    }
    std::fs::create_dir_all(target)
        .map_err(|source| RestoreError::Target { path: target.clone(), source })?;
    let options = restore::Options { delete: args.delete, verify: args.verify };
    restore(&repository, tree, root, target, options, &run.progress)?;
    run.report.message =
        format!("snapshot {} restored to {}", snapshot.id.to_hex().as_str(), target.display());
    run.progress.nothing_missed(&run.report.message)
}

fn dry_run(
    run: &mut Run,
    repository: &Indexed,
    tree: TreeId,
    root: Option<&Wanted>,
    args: &Restore,
    target: &Path,
) -> Result<(), MoverError> {
    let scope = Scope { contents: args.verify, extra: args.delete };
    compare(repository, tree, root, target, scope, &run.progress)?;
    let found = run.progress.take_misses();
    for line in &found.named {
        println!("{line}");
    }
    run.report.message = format!("a restore would change {} entries", found.total);
    Ok(())
}

/// `verify` without a dispatch.
pub fn verify(run: &mut Run, args: &Verify) -> Result<(), MoverError> {
    let opened = run.open(&args.access, false)?;
    if let (Some(wanted), Some(target)) = (&args.snapshot, &args.target) {
        let snapshot = find(&opened, wanted)?;
        let repository = repo::index(opened)?;
        let (tree, root) = root_of(&repository, &snapshot)?;
        let scope = Scope { contents: true, extra: true };
        compare(&repository, tree, root.as_ref(), target, scope, &run.progress)?;
        let id = snapshot.id.to_hex();
        run.progress.nothing_missed(&format!("{} compared with {}", target.display(), id.as_str()))?;
        run.report.proven = true;
        run.report.message = format!("{} equals snapshot {}", target.display(), id.as_str());
        return Ok(());
    }
    check_repository(run, &opened, args.read_data_percent.unwrap_or(0))
}

/// How often the library's check is begun before its breaking down counts as damage.
const CHECK_TRIES: usize = 3;

fn check_options(percent: u8) -> CheckOptions {
    let mut options = CheckOptions::default();
    options.trust_cache = true;
    options.read_data = percent > 0;
    options.read_data_subset = match percent {
        100 => ReadSubsetOption::All,
        share => ReadSubsetOption::Percentage(share.into()),
    };
    options
}

/// Checks that everything the snapshots need is there, and reads a share of it.
pub fn check_repository(run: &mut Run, opened: &Opened, percent: u8) -> Result<(), MoverError> {
    let mut found = None;
    // The library's check can panic instead of saying what is damaged: it waits a tenth of a second for
    // its own threads, and no longer. That is no verdict about the repository, so it is asked again.
    for _ in 0..CHECK_TRIES {
        let check = std::panic::AssertUnwindSafe(|| opened.check(check_options(percent)));
        if let Ok(result) = std::panic::catch_unwind(check) {
            found = Some(result.map_err(RepoError::library("checking the repository"))?);
            break;
        }
    }
    let where_ = PathBuf::from(&opened.name);
    if found.is_none() {
        let why =
            format!("the check broke down {CHECK_TRIES} times, which it does at damaged data; see the log");
        run.progress.miss(MoverReason::RepositoryDamaged, &where_, why);
    }
    for (level, error) in found.iter().flat_map(|found| &found.0) {
        // Only what is marked as an error; a pack that nobody needs is a warning.
        if format!("{level:?}") == "Error" {
            run.progress.miss(MoverReason::RepositoryDamaged, &where_, error);
        }
    }
    run.report.message = format!("the repository was checked, {percent} % of its data read");
    run.progress.nothing_missed("checking the repository")
}

/// `snapshots`.
pub fn snapshots(run: &mut Run, args: &Snapshots) -> Result<(), MoverError> {
    let all = repo::snapshots(&run.open(&args.access, false)?)?;
    if args.json {
        let text =
            serde_json::to_string(&all).map_err(|error| MoverError::Usage(format!("no JSON: {error}")))?;
        println!("{text}");
        return Ok(());
    }
    for snapshot in &all {
        let id = snapshot.id.to_hex();
        let paths: Vec<&str> = snapshot.paths.iter().map(String::as_str).collect();
        println!(
            "{}  {}  {}  {}",
            id.as_str().get(..8).unwrap_or_default(),
            snapshot.time.timestamp(),
            snapshot.hostname,
            paths.join(" ")
        );
    }
    Ok(())
}

/// `init`.
pub fn init(run: &mut Run, args: &Init) -> Result<(), MoverError> {
    run.open(&args.access, true)?;
    run.report.message = format!("the repository at {} is ready", args.access.repository);
    Ok(())
}
