//! Which repositories may be created and written.

use super::names::RepoName;
use super::watch::read_bounded;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// Longest file that is read, in bytes: 2,000 names of 63.
const MAX_FILE: u64 = 256 << 10;

/// Why the list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RepositoriesError {
    /// Not readable.
    #[error("cannot read the list of repositories {path}")]
    Read {
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A name that no repository can have.
    #[error("{0:?} is not a repository's name (a DNS-1123 label)")]
    Name(String),
}

/// The list, if there is one: reading is never bounded by it, so a retired copy stays readable.
#[derive(Debug)]
pub struct Repositories {
    file: Option<PathBuf>,
    allowed: Option<RwLock<BTreeSet<RepoName>>>,
}

impl Repositories {
    /// From names, or from a file with one a line (`#` begins a comment); from neither, every
    /// repository may be created.
    ///
    /// # Errors
    /// [`RepositoriesError`].
    pub fn load(names: &[String], file: Option<PathBuf>) -> Result<Self, RepositoriesError> {
        let allowed = match &file {
            Some(path) => Some(read(path)?),
            None if names.is_empty() => None,
            None => Some(names.iter().map(|name| parse(name)).collect::<Result<_, _>>()?),
        };
        Ok(Self { file, allowed: allowed.map(RwLock::new) })
    }

    /// Whether this repository may be created and written.
    #[must_use]
    pub fn allows(&self, name: &RepoName) -> bool {
        self.allowed
            .as_ref()
            .is_none_or(|names| names.read().unwrap_or_else(PoisonError::into_inner).contains(name))
    }

    /// Reads the file again; `true` when something changed.
    ///
    /// # Errors
    /// [`RepositoriesError`]; the list from before stays in force.
    pub fn reload(&self) -> Result<bool, RepositoriesError> {
        let (Some(path), Some(allowed)) = (&self.file, &self.allowed) else { return Ok(false) };
        let fresh = read(path)?;
        let mut names = allowed.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *names != fresh;
        *names = fresh;
        Ok(changed)
    }
}

fn parse(name: &str) -> Result<RepoName, RepositoriesError> {
    RepoName::parse(name).ok_or_else(|| RepositoriesError::Name(name.to_owned()))
}

fn read(path: &Path) -> Result<BTreeSet<RepoName>, RepositoriesError> {
    let error = |source| RepositoriesError::Read { path: path.to_owned(), source };
    let bytes = read_bounded(path, MAX_FILE).map_err(error)?;
    let text = String::from_utf8(bytes).map_err(|source| error(io::Error::other(source)))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(parse).collect()
}
