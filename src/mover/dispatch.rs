//! `--dispatch`: all volumes of a DataEmbassy as one signed set.

use super::archive::{Archived, Job, MANIFESTS_DIR, archive, archive_manifests};
use super::args::{Backup, OnUnreadable, Restore, Verify, Volume, Which, WhichDispatch};
use super::chain::{self, Identity};
use super::error::{DispatchError, MoverError, RestoreError, SourceError};
use super::manifests;
use super::prove::{Scope, compare};
use super::repo::{self, Indexed, Opened};
use super::restore::{self, restore};
use super::run::Run;
use super::wanted::Wanted;
use crate::api::dispatch::{DispatchHeader, HEADER_VERSION, ManifestsEntry, SignedHeader, VolumeEntry};
use ed25519_dalek::{SigningKey, VerifyingKey};
use rustic_core::TreeId;
use rustic_core::repofile::SnapshotFile;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The options of a dispatch, all there.
struct Cut<'a> {
    pair: &'a str,
    data_embassy: &'a str,
    volumes: Vec<&'a Volume>,
    epoch: u64,
    time: jiff::Timestamp,
    key: SigningKey,
}

impl<'a> Cut<'a> {
    fn new(args: &'a Backup) -> Result<Self, MoverError> {
        let need = |what: &str| MoverError::Usage(format!("--dispatch needs {what}"));
        let key_file = args.signing_key_file.as_deref().ok_or_else(|| need("--signing-key-file"))?;
        Ok(Self {
            pair: args.pair.as_deref().ok_or_else(|| need("--pair"))?,
            data_embassy: args.data_embassy.as_deref().ok_or_else(|| need("--data-embassy"))?,
            volumes: sorted(&args.volume)?,
            epoch: args.epoch.ok_or_else(|| need("--epoch"))?,
            time: args.cut_time.ok_or_else(|| need("--cut-time"))?,
            key: chain::read_signing_key(key_file)?,
        })
    }
}

fn sorted(volumes: &[Volume]) -> Result<Vec<&Volume>, MoverError> {
    let mut all: Vec<&Volume> = volumes.iter().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let twice = all.iter().zip(all.iter().skip(1)).find(|(a, b)| a.name == b.name);
    if let Some((first, _)) = twice {
        return Err(MoverError::Usage(format!("volume {} is given twice", first.name)));
    }
    Ok(all)
}

/// Path of a volume in its snapshot.
fn as_path(volume: &str) -> PathBuf {
    Path::new("/volumes").join(volume)
}

/// `backup --dispatch`. The commit is the last thing that happens.
pub fn backup(run: &mut Run, args: &Backup) -> Result<(), MoverError> {
    let cut = Cut::new(args)?;
    let public = cut.key.verifying_key();
    let identity = Identity { pair: cut.pair, data_embassy: cut.data_embassy, key: &public };
    let objects = args.manifests.as_deref().map(manifests::read_gzip).transpose()?;
    let opened = run.open(&args.access, true)?;
    let store = run.location()?.dispatches;
    let before = chain::last(store.as_ref(), &identity)?;
    if let Some(last) = before.as_ref().filter(|last| last.header.cut_time >= cut.time) {
        return already_cut(run, last, &cut);
    }
    expect_totals(run, before.as_ref());
    let (mut repository, volumes, mut trees) = archive_volumes(run, args, &cut, opened, before.as_ref())?;
    check_misses(run, args)?;
    let manifests = match objects {
        None => None,
        Some((content, objects)) => {
            let snapshot = archive_manifests(&repository, content, cut.data_embassy, cut.time)?;
            repository = repo::index(repository.drop_index())?;
            trees.push(snapshot.tree);
            Some(ManifestsEntry { snapshot: snapshot.id.to_hex().as_str().to_owned(), objects })
        }
    };
    let (packs, indexes) = chain::needed(&repository, &trees, &run.progress)?;
    run.progress.check()?;
    // Read again: this run's header goes behind whatever is the last one now.
    let last = chain::last(store.as_ref(), &identity)?;
    if let Some(last) = last.as_ref().filter(|last| last.header.cut_time >= cut.time) {
        return Err(DispatchError::Overtaken(last.header.sequence).into());
    }
    let (sequence, previous) = chain::follow(last.as_ref());
    let header = DispatchHeader {
        version: HEADER_VERSION,
        pair: cut.pair.to_owned(),
        data_embassy: cut.data_embassy.to_owned(),
        sequence,
        epoch: cut.epoch,
        previous,
        cut_time: cut.time,
        volumes,
        manifests,
        packs,
        indexes,
    };
    let signed = chain::commit(store.as_ref(), header, &cut.key)?;
    tell(run, &signed);
    run.report.message = format!("dispatch {sequence} committed");
    Ok(())
}

/// The same cut again: the run before committed it and was ended before it could say so.
fn already_cut(run: &mut Run, last: &SignedHeader, cut: &Cut<'_>) -> Result<(), MoverError> {
    let header = &last.header;
    let names = |entry: &VolumeEntry| entry.name.clone();
    let same_volumes = header.volumes.iter().map(names).eq(cut.volumes.iter().map(|v| v.name.clone()));
    if header.cut_time == cut.time && header.epoch == cut.epoch && same_volumes {
        tell(run, last);
        run.report.message = format!("dispatch {} is already committed", header.sequence);
        return Ok(());
    }
    Err(DispatchError::Refused {
        sequence: header.sequence,
        why: format!("its cut, {}, is not before ours, {}", header.cut_time, cut.time),
    }
    .into())
}

fn tell(run: &mut Run, signed: &SignedHeader) {
    run.report.sequence = Some(signed.header.sequence);
    run.report.header_hash = Some(signed.hash());
    run.report.cut_time = Some(signed.header.cut_time);
    run.report.epoch = Some(signed.header.epoch);
}

/// The last dispatch is the best guess of what this one will hold.
fn expect_totals(run: &Run, header: Option<&SignedHeader>) {
    let volumes = header.map_or(&[][..], |header| header.header.volumes.as_slice());
    let files = volumes.iter().map(|volume| volume.files).sum();
    let bytes = volumes.iter().map(|volume| volume.bytes).sum();
    run.progress.total_files.store(files, Ordering::Relaxed);
    run.progress.total_bytes.store(bytes, Ordering::Relaxed);
}

fn check_misses(run: &Run, args: &Backup) -> Result<(), MoverError> {
    match args.on_unreadable {
        OnUnreadable::Fail => run.progress.nothing_missed("nothing was committed"),
        OnUnreadable::Report => Ok(()),
    }
}

type Volumes = (Indexed, Vec<VolumeEntry>, Vec<TreeId>);

fn archive_volumes(
    run: &mut Run,
    args: &Backup,
    cut: &Cut<'_>,
    opened: Opened,
    before: Option<&SignedHeader>,
) -> Result<Volumes, MoverError> {
    let mut repository = repo::index(opened)?;
    let (mut volumes, mut trees) = (Vec::new(), Vec::new());
    for volume in &cut.volumes {
        let last = before.and_then(|header| entry_of(header, &volume.name));
        let archived = archive_volume(run, args, cut, &repository, volume, last)?;
        let allowed = args.allow_empty.contains(&volume.name);
        if let Some(last) = last.filter(|last| last.files > 0 && !allowed)
            && archived.entries == 0
        {
            let (volume, before) = (volume.name.clone(), last.files);
            return Err(SourceError::Empty { volume, before }.into());
        }
        // The next volume and the list of packs need the blobs that this one has added.
        repository = repo::index(repository.drop_index())?;
        trees.push(archived.snapshot.tree);
        run.report.bytes_added += archived.added;
        volumes.push(VolumeEntry {
            name: volume.name.clone(),
            snapshot: archived.snapshot.id.to_hex().as_str().to_owned(),
            tree: archived.snapshot.tree.to_hex().as_str().to_owned(),
            root: archived.root,
            files: archived.entries,
            bytes: archived.bytes,
        });
    }
    Ok((repository, volumes, trees))
}

fn entry_of<'a>(header: &'a SignedHeader, volume: &str) -> Option<&'a VolumeEntry> {
    header.header.volumes.iter().find(|entry| entry.name == volume)
}

fn archive_volume(
    run: &Run,
    args: &Backup,
    cut: &Cut<'_>,
    repository: &Indexed,
    volume: &Volume,
    last: Option<&VolumeEntry>,
) -> Result<Archived, MoverError> {
    // Only a committed snapshot may be a parent: nobody vouches for the others.
    let parent: Option<SnapshotFile> = match last.filter(|_| !args.force) {
        // A parent saves time; without it everything is read.
        Some(last) => repo::snapshot(repository, &last.snapshot).ok(),
        None => None,
    };
    let job = Job {
        source: &volume.path,
        as_path: &as_path(&volume.name),
        host: cut.data_embassy,
        tags: &[],
        time: cut.time,
        parent: parent.as_ref(),
        identity: args.identity,
    };
    archive(repository, &job, &run.progress)
}

/// A dispatch that was asked for and holds.
struct Chosen {
    signed: SignedHeader,
    repository: Indexed,
}

fn choose(run: &mut Run, access: &super::args::Access, which: &WhichDispatch) -> Result<Chosen, MoverError> {
    let need = |what: &str| MoverError::Usage(format!("--dispatch needs {what}"));
    let key_file = which.verify_key_file.as_deref().ok_or_else(|| need("--verify-key-file"))?;
    let key: VerifyingKey = chain::read_verifying_key(key_file)?;
    let identity = Identity {
        pair: which.pair.as_deref().ok_or_else(|| need("--pair"))?,
        data_embassy: which.data_embassy.as_deref().ok_or_else(|| need("--data-embassy"))?,
        key: &key,
    };
    let opened = run.open(access, false)?;
    let store = run.location()?.dispatches;
    let signed = match which.dispatch {
        Some(Which::Sequence(sequence)) => chain::read(store.as_ref(), sequence, &identity)?,
        _ => chain::last(store.as_ref(), &identity)?.ok_or_else(|| DispatchError::None(String::new()))?,
    };
    let sequence = signed.header.sequence;
    if which.min_sequence.is_some_and(|least| sequence < least) {
        let why = format!("at least {} is wanted", which.min_sequence.unwrap_or_default());
        return Err(DispatchError::Refused { sequence, why }.into());
    }
    tell(run, &signed);
    run.location()?.indexes.only(&signed.header.indexes);
    Ok(Chosen { signed, repository: repo::index(opened)? })
}

/// One volume of a dispatch, ready to be restored or compared.
struct Part<'a> {
    target: &'a Path,
    tree: TreeId,
    root: Wanted,
}

fn parts<'a>(chosen: &Chosen, volumes: &'a [Volume]) -> Result<Vec<Part<'a>>, MoverError> {
    let sequence = chosen.signed.header.sequence;
    sorted(volumes)?
        .into_iter()
        .map(|volume| {
            let entry = entry_of(&chosen.signed, &volume.name).ok_or_else(|| {
                let why = format!("it holds no volume {}", volume.name);
                MoverError::from(DispatchError::Refused { sequence, why })
            })?;
            Ok(Part {
                target: &volume.path,
                tree: volume_tree(&chosen.repository, entry)?,
                root: Wanted::from_root(&entry.root),
            })
        })
        .collect()
}

/// From the signed root tree down to the volume's own. The snapshot file is not asked: only what
/// the header names by its hash is signed.
fn volume_tree(repository: &Indexed, entry: &VolumeEntry) -> Result<TreeId, MoverError> {
    let path = as_path(&entry.name);
    let missing =
        || RestoreError::NoPath { snapshot: entry.snapshot.clone(), path: path.display().to_string() };
    let root: TreeId = entry.tree.parse().map_err(|_| missing())?;
    let node = repo::node_at(repository, root, &path)?;
    Ok(node.and_then(|node| node.subtree).ok_or_else(missing)?)
}

/// `restore --dispatch`: restores every volume, proves every volume, hands the manifests over.
pub fn restore_dispatch(run: &mut Run, args: &Restore) -> Result<(), MoverError> {
    let chosen = choose(run, &args.access, &args.which)?;
    expect_totals(run, Some(&chosen.signed));
    let parts = parts(&chosen, &args.which.volume)?;
    let options = restore::Options { delete: true, verify: args.verify };
    for part in &parts {
        let root = Some(part.root.clone());
        restore(&chosen.repository, part.tree, root, part.target, options, &run.progress)?;
    }
    let sequence = chosen.signed.header.sequence;
    run.progress.nothing_missed(&format!("dispatch {sequence} is not wholly restored"))?;
    prove(run, &chosen, &parts)?;
    hand_over(&chosen, args)?;
    run.report.message = format!("dispatch {sequence} restored and proven");
    Ok(())
}

/// `verify --dispatch`: the proof without the restore.
pub fn verify_dispatch(run: &mut Run, args: &Verify) -> Result<(), MoverError> {
    let chosen = choose(run, &args.access, &args.which)?;
    expect_totals(run, Some(&chosen.signed));
    let parts = parts(&chosen, &args.which.volume)?;
    prove(run, &chosen, &parts)?;
    run.report.message = format!("dispatch {} proven", chosen.signed.header.sequence);
    Ok(())
}

fn prove(run: &mut Run, chosen: &Chosen, parts: &[Part<'_>]) -> Result<(), MoverError> {
    run.progress.files.store(0, Ordering::SeqCst);
    run.progress.bytes.store(0, Ordering::SeqCst);
    let scope = Scope { contents: true, extra: true };
    for part in parts {
        compare(&chosen.repository, part.tree, Some(&part.root), part.target, scope, &run.progress)?;
    }
    let sequence = chosen.signed.header.sequence;
    run.progress.nothing_missed(&format!("dispatch {sequence} is not proven"))?;
    run.report.proven = true;
    Ok(())
}

fn hand_over(chosen: &Chosen, args: &Restore) -> Result<(), MoverError> {
    if args.manifests_out.is_none() && args.manifests_secret.is_none() {
        return Ok(());
    }
    let header = &chosen.signed.header;
    let Some(entry) = &header.manifests else {
        let why = "it holds no manifests".to_owned();
        return Err(DispatchError::Refused { sequence: header.sequence, why }.into());
    };
    let snapshot = repo::snapshot(&chosen.repository, &entry.snapshot)?;
    let content = manifests::from_snapshot(&chosen.repository, &snapshot, entry, MANIFESTS_DIR)?;
    if let Some(path) = &args.manifests_out {
        manifests::write_file(path, &content)?;
    }
    if let Some(secret) = &args.manifests_secret {
        manifests::write_secret(secret, &content, header.sequence)?;
    }
    Ok(())
}
