//! Image files: making a file system in one, copying, growing and searching them.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;

use super::layout::{files, remove_file};

const MIB: u64 = 1 << 20;
/// Below this ext4 has no room for a journal.
const SMALLEST: u64 = 8 * MIB;
const CHUNK: usize = 1 << 20;
const TOOL_DEADLINE: &str = "120";

/// The size a volume really gets: whole MiB, at least 8.
pub fn rounded(size: u64) -> u64 {
    size.max(SMALLEST).div_ceil(MIB).saturating_mul(MIB)
}

/// Makes a sparse image with an empty ext4.
pub fn make(path: &Path, size: u64, encrypted: bool, label: &str) -> Result<()> {
    let file = new_file(path)?;
    file.set_len(size).with_context(|| format!("sizing {}", path.display()))?;
    // metadata_csum_seed lets a copy get another UUID without rewriting every checksum.
    let features = if encrypted { "encrypt,metadata_csum_seed" } else { "metadata_csum_seed" };
    let label: String = label.chars().take(16).collect();
    let fixed = [
        "-q",
        "-F",
        "-m",
        "0",
        "-b",
        "4096",
        "-E",
        "assume_storage_prezeroed=1",
        "-O",
        features,
        "-L",
        &label,
    ];
    let arguments = fixed.iter().map(OsStr::new).chain([path.as_os_str()]);
    tool("mkfs.ext4", arguments, 0)
}

/// An empty file of mode 0600 in place of whatever lay there. Always another inode: a tool that
/// outlived its killed caller may still write to the old one.
fn new_file(path: &Path) -> Result<File> {
    remove_file(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).with_context(|| format!("making {}", path.display()))
}

/// Copies `from` to a new file `to`, holes staying holes. The bytes of data copied are returned.
pub fn copy(from: &Path, to: &Path) -> Result<u64> {
    let source = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    let target = new_file(to)?;
    copy_files(&source, &target).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

fn copy_files(source: &File, target: &File) -> Result<u64> {
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let (mut position, mut copied) = (0, 0);
    while position < size {
        let start = match rustix::fs::seek(source, rustix::fs::SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(source, rustix::fs::SeekFrom::Hole(start))?;
        copy_range(source, target, start, end)?;
        copied += end - start;
        position = end;
    }
    Ok(copied)
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> Result<()> {
    let (mut off_in, mut off_out) = (start, start);
    while off_in < end {
        let length = usize::try_from(end - off_in).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut off_in), target, Some(&mut off_out), length) {
            Ok(0) => bail!("{} ended at {off_in} while being copied", end - start),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                return copy_by_hand(source, target, off_in, end);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(mut source: &File, mut target: &File, start: u64, end: u64) -> Result<()> {
    source.seek(SeekFrom::Start(start))?;
    target.seek(SeekFrom::Start(start))?;
    let copied = io::copy(&mut source.take(end - start), &mut target)?;
    target.flush()?;
    if copied != end - start {
        bail!("the source ended after {copied} of {} bytes", end - start);
    }
    Ok(())
}

/// Gives a copy a UUID of its own.
pub fn new_uuid(path: &Path) -> Result<()> {
    tool("tune2fs", [OsStr::new("-U"), OsStr::new("random"), path.as_os_str()], 0)
}

/// Grows the (clean, unmounted) file system in `path` to `size`.
pub fn grow(path: &Path, size: u64) -> Result<()> {
    let file =
        OpenOptions::new().write(true).open(path).with_context(|| format!("opening {}", path.display()))?;
    file.set_len(size).with_context(|| format!("growing {}", path.display()))?;
    // e2fsck answers 1 for "errors corrected", which resize2fs insists on having asked.
    tool("e2fsck", [OsStr::new("-fp"), path.as_os_str()], 1)?;
    tool("resize2fs", [path.as_os_str()], 0)
}

/// Runs a tool of e2fsprogs with a deadline; exit statuses up to `highest` are fine.
fn tool<'a>(name: &str, arguments: impl IntoIterator<Item = &'a OsStr>, highest: i32) -> Result<()> {
    let output = Command::new("timeout")
        .args(["--kill-after=5", TOOL_DEADLINE, name])
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .with_context(|| format!("starting {name}"))?;
    match output.status.code() {
        Some(code) if code <= highest => Ok(()),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{name} ended with {}: {}", output.status, said.trim())
        }
    }
}

/// All image files of a provisioner's directory: volumes and snapshots, also half-made ones.
pub fn raw_images(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = files(&dir.join("volumes"))?;
    found.extend(files(&dir.join("snapshots"))?);
    found.retain(|path| path.extension().is_some_and(|e| e == "img" || e == "new"));
    Ok(found)
}

/// Whether the bytes `needle` are anywhere in the file. Streams: the file may be large.
pub fn contains(path: &Path, needle: &[u8]) -> Result<bool> {
    if needle.is_empty() {
        bail!("an empty needle is in every file: that would prove nothing");
    }
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let keep = needle.len() - 1;
    let mut window: Vec<u8> = Vec::with_capacity(CHUNK + keep);
    let mut chunk = vec![0; CHUNK];
    loop {
        let got = match file.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        };
        window.extend_from_slice(chunk.get(..got).unwrap_or_default());
        if found_in(&window, needle) {
            return Ok(true);
        }
        window.drain(..window.len().saturating_sub(keep));
    }
}

/// Compares only where the first byte fits, so that gigabytes of zeros go by quickly.
fn found_in(hay: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else {
        return true;
    };
    let mut rest = hay;
    while let Some(at) = rest.iter().position(|b| b == first) {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(needle) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

/// Moves a finished file to its final name.
pub fn publish(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("renaming {} to {}", from.display(), to.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_needle_across_two_reads_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![b'm'; 2 * CHUNK];
        bytes.splice(CHUNK - 3..CHUNK + 3, *b"marker");
        fs::write(file.path(), &bytes).unwrap();
        assert!(contains(file.path(), b"marker").unwrap());
        assert!(contains(file.path(), b"mmarker").unwrap());
        assert!(!contains(file.path(), b"markerr").unwrap());
        assert!(contains(file.path(), b"").is_err());
    }

    #[test]
    fn copies_are_equal_and_stay_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(512 * MIB).unwrap();
        file.write_all_at(b"in the middle", 300 * MIB + 17).unwrap();
        let copied = copy(&from, &to).unwrap();
        assert!(copied < MIB, "{copied} bytes copied");
        let meta = fs::metadata(&to).unwrap();
        assert_eq!(meta.len(), 512 * MIB);
        assert!(meta.blocks() * 512 < MIB, "{} blocks", meta.blocks());
        let mut back = [0; 13];
        File::open(&to).unwrap().read_exact_at(&mut back, 300 * MIB + 17).unwrap();
        assert_eq!(&back, b"in the middle");
    }

    #[test]
    fn sizes_are_whole_mebibytes() {
        assert_eq!(rounded(1), 8 * MIB);
        assert_eq!(rounded(32 * MIB), 32 * MIB);
        assert_eq!(rounded(32 * MIB + 1), 33 * MIB);
    }
}
