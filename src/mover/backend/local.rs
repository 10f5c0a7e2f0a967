//! A repository in a local directory.
//!
//! The library's own drops errors of a listing in silence and shares one temporary name among
//! writers; this one does neither, and it fsyncs the directory that a name appears in.

use super::{BackendError, Committed, DispatchStore};
use crate::api::dispatch::{MAX_HEADER_BYTES, dispatch_name, parse_dispatch_name};
use bytes::Bytes;
use rustic_core::{BytesList, FileType, Id, ReadBackend, RusticResult, WriteBackend};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Clone, Debug)]
pub struct LocalBackend {
    root: PathBuf,
}

impl LocalBackend {
    /// A repository at `root`; nothing is touched yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn dir(&self, tpe: FileType, id: &Id) -> PathBuf {
        match tpe {
            FileType::Config => self.root.clone(),
            FileType::Pack => {
                let hex = id.to_hex();
                self.root.join("data").join(hex.as_str().get(..2).unwrap_or_default())
            }
            _ => self.root.join(tpe.dirname()),
        }
    }

    fn path(&self, tpe: FileType, id: &Id) -> PathBuf {
        match tpe {
            FileType::Config => self.root.join("config"),
            _ => self.dir(tpe, id).join(id.to_hex().as_str()),
        }
    }

    fn list_dir(path: &Path, out: &mut Vec<(Id, u32)>) -> io::Result<()> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            // A repository made by another program may lack empty directories.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().filter(|n| n.len() == 64).and_then(|n| n.parse().ok()) else {
                continue;
            };
            // Whoever prunes may take a file away between the listing and here.
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            out.push((id, u32::try_from(meta.len()).map_err(io::Error::other)?));
        }
        Ok(())
    }

    fn list_type(&self, tpe: FileType) -> io::Result<Vec<(Id, u32)>> {
        let mut out = Vec::new();
        match tpe {
            FileType::Config => match fs::metadata(self.root.join("config")) {
                Ok(meta) => {
                    out.push((Id::default(), u32::try_from(meta.len()).map_err(io::Error::other)?));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
            FileType::Pack => {
                for byte in 0..=255_u8 {
                    Self::list_dir(&self.root.join("data").join(hex::encode([byte])), &mut out)?;
                }
            }
            _ => Self::list_dir(&self.root.join(tpe.dirname()), &mut out)?,
        }
        Ok(out)
    }

    fn create_dirs(&self) -> io::Result<()> {
        for name in ["keys", "snapshots", "index", "locks", "data", "dispatches"] {
            fs::create_dir_all(self.root.join(name))?;
        }
        for byte in 0..=255_u8 {
            fs::create_dir_all(self.root.join("data").join(hex::encode([byte])))?;
        }
        Ok(())
    }

    fn write(&self, tpe: FileType, id: &Id, content: BytesList) -> io::Result<()> {
        let dir = self.dir(tpe, id);
        fs::create_dir_all(&dir)?;
        let mut temporary = tempfile::Builder::new().prefix(".tmp-").tempfile_in(&dir)?;
        for part in content.slice() {
            temporary.write_all(part)?;
        }
        temporary.as_file().sync_all()?;
        temporary.persist(self.path(tpe, id)).map_err(|error| error.error)?;
        File::open(&dir)?.sync_all()
    }

    fn read_range(&self, tpe: FileType, id: &Id, offset: u32, length: u32) -> io::Result<Bytes> {
        let mut file = File::open(self.path(tpe, id))?;
        file.seek(SeekFrom::Start(offset.into()))?;
        let mut buffer = Vec::new();
        // `take` bounds the memory by what the file really holds, whatever an index claims.
        file.take(length.into()).read_to_end(&mut buffer)?;
        if buffer.len() != length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(buffer.into())
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> BackendError {
        let path = path.display().to_string();
        move |source| BackendError::Io { path, source }
    }
}

impl ReadBackend for LocalBackend {
    fn location(&self) -> String {
        format!("local:{}", self.root.display())
    }

    fn list_with_size(&self, tpe: FileType) -> RusticResult<Vec<(Id, u32)>> {
        self.list_type(tpe).map_err(|error| Self::io(&self.root)(error).for_library())
    }

    fn read_full(&self, tpe: FileType, id: &Id) -> RusticResult<Bytes> {
        let path = self.path(tpe, id);
        let bytes = fs::read(&path).map_err(|error| Self::io(&path)(error).for_library())?;
        Ok(bytes.into())
    }

    fn read_partial(
        &self,
        tpe: FileType,
        id: &Id,
        _cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        self.read_range(tpe, id, offset, length)
            .map_err(|error| Self::io(&self.path(tpe, id))(error).for_library())
    }

    fn warmup_path(&self, tpe: FileType, id: &Id) -> String {
        self.path(tpe, id).display().to_string()
    }
}

impl WriteBackend for LocalBackend {
    fn create(&self) -> RusticResult<()> {
        self.create_dirs().map_err(|error| Self::io(&self.root)(error).for_library())
    }

    fn write_bytes(&self, tpe: FileType, id: &Id, _cacheable: bool, content: BytesList) -> RusticResult<()> {
        self.write(tpe, id, content).map_err(|error| Self::io(&self.path(tpe, id))(error).for_library())
    }

    fn remove(&self, tpe: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        let path = self.path(tpe, id);
        fs::remove_file(&path).map_err(|error| Self::io(&path)(error).for_library())
    }
}

impl DispatchStore for LocalBackend {
    fn list_dispatches(&self) -> Result<Vec<u64>, BackendError> {
        let dir = self.root.join("dispatches");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Self::io(&dir)(error)),
        };
        let mut out = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Self::io(&dir))?;
            out.extend(entry.file_name().to_str().and_then(parse_dispatch_name));
        }
        out.sort_unstable();
        Ok(out)
    }

    fn read_dispatch(&self, sequence: u64) -> Result<Vec<u8>, BackendError> {
        let path = self.root.join("dispatches").join(dispatch_name(sequence));
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BackendError::NotFound(path.display().to_string()),
            _ => Self::io(&path)(error),
        })?;
        let mut bytes = Vec::new();
        file.take(MAX_HEADER_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(Self::io(&path))?;
        Ok(bytes)
    }

    fn commit_dispatch(&self, sequence: u64, bytes: &[u8]) -> Result<Committed, BackendError> {
        let dir = self.root.join("dispatches");
        let path = dir.join(dispatch_name(sequence));
        let link = || -> io::Result<bool> {
            fs::create_dir_all(&dir)?;
            let mut temporary = tempfile::Builder::new().prefix(".tmp-").tempfile_in(&dir)?;
            temporary.write_all(bytes)?;
            temporary.as_file().sync_all()?;
            // link(2) fails on an existing name where rename(2) would replace it.
            match fs::hard_link(temporary.path(), &path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                Err(error) => return Err(error),
            }
            File::open(&dir)?.sync_all()?;
            Ok(true)
        };
        if link().map_err(Self::io(&path))? {
            return Ok(Committed::Done);
        }
        let stored = self.read_dispatch(sequence)?;
        Ok(if stored == bytes { Committed::Done } else { Committed::Taken })
    }
}
