//! One directory into one snapshot.

use super::error::{MoverError, RepoError, SourceError};
use super::fsx::Time;
use super::progress::Progress;
use super::repo::Indexed;
use super::source::{Identity, Source};
use crate::api::dispatch::RootMetadata;
use jiff::Zoned;
use jiff::tz::TimeZone;
use rustic_core::repofile::{Metadata, Node, NodeType, SnapshotFile};
use rustic_core::{BackupOptions, ParentOptions, ReadSource, ReadSourceEntry, RusticResult, SnapshotOptions};
use std::ffi::OsStr;
use std::io::Cursor;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Files whose time stamp is this many seconds or less before the parent's cut are read again.
const GRANULARITY: i64 = 2;
/// Path of the manifests' snapshot.
pub const MANIFESTS_DIR: &str = "/manifests";
/// The one file in it.
pub const MANIFESTS_FILE: &str = "manifests.json";

/// What to back up, and as what.
pub struct Job<'a> {
    /// The directory to read.
    pub source: &'a Path,
    /// Its path in the snapshot.
    pub as_path: &'a Path,
    /// Host of the snapshot: with the path it is what parents are found by.
    pub host: &'a str,
    /// Tags of the snapshot.
    pub tags: &'a [String],
    /// The moment that the snapshot shows.
    pub time: jiff::Timestamp,
    /// The snapshot to compare with.
    pub parent: Option<&'a SnapshotFile>,
    /// What tells an unchanged file.
    pub identity: Identity,
}

/// A snapshot that is in the repository.
pub struct Archived {
    /// The library's record.
    pub snapshot: SnapshotFile,
    /// The root directory, as it was before it was read.
    pub root: RootMetadata,
    /// Entries, without the root.
    pub entries: u64,
    /// Sum of the files' sizes.
    pub bytes: u64,
    /// Bytes added to the repository, compressed.
    pub added: u64,
}

fn zoned(time: jiff::Timestamp) -> Zoned {
    time.to_zoned(TimeZone::UTC)
}

fn blank(host: &str, tags: &[String], time: jiff::Timestamp) -> Result<SnapshotFile, MoverError> {
    let mut options = SnapshotOptions::default().host(host.to_owned()).time(zoned(time));
    for tag in tags {
        options = options.add_tags(tag).map_err(RepoError::library("reading a tag"))?;
    }
    let mut snapshot = options.to_snapshot().map_err(RepoError::library("preparing the snapshot"))?;
    snapshot.program_version = concat!("data-embassy ", env!("CARGO_PKG_VERSION")).to_owned();
    Ok(snapshot)
}

fn options(job: &Job<'_>) -> BackupOptions {
    let parents: Vec<String> =
        job.parent.iter().map(|parent| parent.id.to_hex().as_str().to_owned()).collect();
    let parent_opts = ParentOptions::default()
        .force(parents.is_empty())
        .parents(parents)
        .ignore_ctime(false)
        // The library of this version has it the wrong way round: `true` compares inodes.
        .ignore_inode(job.identity == Identity::Inode);
    BackupOptions::default().as_path(job.as_path.to_owned()).no_scan(true).parent_opts(parent_opts)
}

/// Archives `job`. Unreadable entries are counted in `progress`; the caller decides about them.
///
/// # Errors
/// [`SourceError::Missing`], [`SourceError::Lost`], [`RepoError`], [`MoverError::Interrupted`].
pub fn archive(
    repository: &Indexed,
    job: &Job<'_>,
    progress: &Arc<Progress>,
) -> Result<Archived, MoverError> {
    let name = job.as_path.file_name().unwrap_or(OsStr::new("root"));
    let mut source = Source::open(job.source, name, job.identity, progress.clone())?;
    source.reread_from(job.parent.map(threshold));
    let root = source.root_metadata()?;
    let missed_before = progress.misses().total;
    let result = repository.archive(
        &options(job),
        &source,
        blank(job.host, job.tags, job.time)?,
        &[job.source.to_owned()],
    );
    // Asked first: an interrupted run also fails in other words.
    progress.check()?;
    let snapshot = result.map_err(RepoError::library("writing the snapshot"))?;
    let missed = progress.misses().total - missed_before;
    let (entries, bytes, added) = stored(job, &source, &snapshot, missed)?;
    Ok(Archived { snapshot, root, entries, bytes, added })
}

fn threshold(parent: &SnapshotFile) -> Time {
    let cut = parent.time.timestamp().as_second();
    (cut.saturating_sub(GRANULARITY), 0)
}

/// Compares what was handed over with what the archiver stored.
fn stored(
    job: &Job<'_>,
    source: &Source,
    snapshot: &SnapshotFile,
    missed: u64,
) -> Result<(u64, u64, u64), SourceError> {
    let read = source.entries_read();
    let Some(summary) = &snapshot.summary else {
        return Err(SourceError::Lost { path: job.source.to_owned(), read, stored: 0 });
    };
    // The tree above the source is counted too: the directories of `as_path`, and the root.
    let above = job.as_path.components().filter(|part| matches!(part, Component::Normal(_))).count() + 1;
    let stored = (summary.total_files_processed + summary.total_dirs_processed).saturating_sub(above as u64);
    if stored > read || read - stored > missed {
        return Err(SourceError::Lost { path: job.source.to_owned(), read, stored });
    }
    Ok((stored, summary.total_bytes_processed, summary.data_added_packed))
}

/// A source that is one file in memory: the manifests.
struct OneFile {
    content: Vec<u8>,
}

impl ReadSource for OneFile {
    type Open = Cursor<Vec<u8>>;
    type Iter = std::option::IntoIter<RusticResult<ReadSourceEntry<Cursor<Vec<u8>>>>>;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(Some(self.content.len() as u64))
    }

    fn entries(&self) -> Self::Iter {
        // A fixed time: the same manifests are the same tree.
        let meta = Metadata {
            mode: Some(0o600),
            mtime: Some(jiff::Timestamp::UNIX_EPOCH),
            atime: Some(jiff::Timestamp::UNIX_EPOCH),
            uid: Some(0),
            gid: Some(0),
            size: self.content.len() as u64,
            links: 1,
            ..Metadata::default()
        };
        let node = Node::new_node(OsStr::new(MANIFESTS_FILE), NodeType::File, meta);
        let path = Path::new(MANIFESTS_DIR).join(MANIFESTS_FILE);
        let open = Some(Cursor::new(self.content.clone()));
        Some(Ok(ReadSourceEntry { path, node, open })).into_iter()
    }
}

/// Archives the manifests as a snapshot of their own.
///
/// # Errors
/// [`RepoError`].
pub fn archive_manifests(
    repository: &Indexed,
    content: Vec<u8>,
    host: &str,
    time: jiff::Timestamp,
) -> Result<SnapshotFile, MoverError> {
    let options = BackupOptions::default().no_scan(true).parent_opts(ParentOptions::default().force(true));
    let source = OneFile { content };
    let paths = [PathBuf::from(MANIFESTS_DIR)];
    let snapshot = repository
        .archive(&options, &source, blank(host, &[], time)?, &paths)
        .map_err(RepoError::library("writing the manifests' snapshot"))?;
    let stored = snapshot.summary.as_ref().map_or(0, |summary| summary.total_files_processed);
    if stored != 1 {
        let path = PathBuf::from(MANIFESTS_DIR);
        return Err(SourceError::Lost { path, read: 1, stored }.into());
    }
    Ok(snapshot)
}
