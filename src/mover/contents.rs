//! Contents of files against the list of blobs in a node.

use super::error::RepoError;
use super::progress::Progress;
use super::repo::{self, Indexed};
use rustic_core::repofile::Node;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Largest blob that the format allows in practice; a longer one would only eat memory.
const MAX_BLOB: u32 = 64 << 20;

/// How a comparison ended.
pub enum Check {
    /// Every byte is as signed.
    Equal,
    /// The block at this offset is not.
    Differs(u64),
    /// The file could not be read.
    Unreadable(io::Error),
    /// The run was told to stop.
    Stopped,
}

/// Length of a file by its blobs. The node's own size is what stat said when the backup began; for
/// a file that changed meanwhile the blobs are right.
///
/// # Errors
/// [`RepoError`] if the index does not know a blob.
pub fn size(repository: &Indexed, node: &Node) -> Result<u64, RepoError> {
    let mut size = 0_u64;
    for id in node.content.iter().flatten() {
        size += u64::from(repo::blob_length(repository, id)?);
    }
    Ok(size)
}

/// Reads exactly `length` bytes at `offset` into `buffer`.
///
/// # Errors
/// As pread(2); an early end is an error.
pub fn read_block(file: &File, offset: u64, length: u32, buffer: &mut Vec<u8>) -> io::Result<()> {
    if length > MAX_BLOB {
        return Err(io::Error::other("a block of more than 64 MiB"));
    }
    buffer.resize(length as usize, 0);
    file.read_exact_at(buffer, offset)
}

/// Compares `file` with the blobs of `node`, by their hashes, without the repository's data.
///
/// # Errors
/// [`RepoError`] if the index does not know a blob.
pub fn check(
    repository: &Indexed,
    node: &Node,
    file: &File,
    progress: &Progress,
) -> Result<Check, RepoError> {
    let mut offset = 0;
    let mut buffer = Vec::new();
    for id in node.content.iter().flatten() {
        if progress.stopped() {
            return Ok(Check::Stopped);
        }
        let length = repo::blob_length(repository, id)?;
        match read_block(file, offset, length, &mut buffer) {
            Ok(()) if repo::hash(&buffer) == **id => {}
            Ok(()) => return Ok(Check::Differs(offset)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Check::Differs(offset));
            }
            Err(error) => return Ok(Check::Unreadable(error)),
        }
        offset += u64::from(length);
    }
    match file.metadata() {
        Ok(meta) if meta.len() == offset => Ok(Check::Equal),
        Ok(_) => Ok(Check::Differs(offset)),
        Err(error) => Ok(Check::Unreadable(error)),
    }
}
