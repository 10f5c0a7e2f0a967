//! Uploads: stream, hash, publish.

use super::body::BoundedBody;
use super::error::{RequestError, blocking};
use super::names::{Kind, ObjectId};
use super::repo::Repo;
use super::store::{Published, Store, TempFile, fsync_parent};
use super::usage::Reservation;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

/// Bytes written at once. The disk sees few large writes, and this is the memory of one upload.
const BUFFER: usize = 1 << 20;
/// Longest `config` in bytes.
const MAX_CONFIG: u64 = 64 << 10;

/// What is being uploaded.
#[derive(Clone, Debug)]
pub enum Item {
    /// The repository's `config`, the one file that is not named by its content.
    Config,
    /// Anything else.
    Object(Kind, ObjectId),
}

/// Receives one upload; after `Ok` it is durable under its name.
///
/// # Errors
/// [`RequestError`]; then no temporary file is left and nothing stored was changed.
pub async fn receive(
    store: &Arc<Store>,
    repo: &Arc<Repo>,
    item: Item,
    quota: Option<u64>,
    body: &mut BoundedBody,
) -> Result<(), RequestError> {
    let (path, max, locks) = match &item {
        Item::Config => (repo.config(), MAX_CONFIG, false),
        Item::Object(kind, id) => (repo.object(*kind, id), kind.max_bytes(), *kind == Kind::Locks),
    };
    body.limit(max)?;
    let quota = if locks { None } else { quota };
    let mut room = Reservation::new(Arc::clone(&repo.usage), quota);
    let mut sink = open_sink(store, path.clone(), &item).await?;
    if let (Some(length), Sink::Write { .. }) = (body.announced(), &sink) {
        // Better before the bytes have crossed the border than after.
        room.grow_to(length)?;
    }
    sink = pump(sink, &mut room, body).await?;
    let length = body.received();
    let shared = Arc::clone(repo);
    // Kept in the same step: a client that hangs up now must not get its object uncharged.
    blocking(move || {
        let published = sink.finish(&shared, &item, &path, length)?;
        if published == Published::New && !locks {
            room.keep(length);
        }
        Ok(())
    })
    .await
}

async fn open_sink(store: &Arc<Store>, path: PathBuf, item: &Item) -> Result<Sink, RequestError> {
    let store = Arc::clone(store);
    // A lock may be deleted while its second upload runs; everything else stays once it is there.
    let stays = !matches!(item, Item::Object(Kind::Locks, _) | Item::Config);
    blocking(move || match fs::metadata(&path) {
        Ok(_) if stays => Ok(Sink::Compare { hash: Sha256::new() }),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RequestError::io("look at an object")(error))
        }
        _ => {
            let temp = store.temp().map_err(RequestError::io("create a temporary file"))?;
            Ok(Sink::Write { temp, hash: Sha256::new() })
        }
    })
    .await
}

/// Moves the body into the sink, a buffer at a time.
async fn pump(mut sink: Sink, room: &mut Reservation, body: &mut BoundedBody) -> Result<Sink, RequestError> {
    let expected = body.announced().and_then(|length| usize::try_from(length).ok());
    let mut buffer = Vec::with_capacity(expected.map_or(BUFFER, |length| length.min(BUFFER)));
    loop {
        let piece = body.next().await?;
        let ended = piece.is_none();
        if let Some(piece) = piece {
            buffer.extend_from_slice(&piece);
        }
        if !ended && buffer.len() < BUFFER {
            continue;
        }
        if matches!(sink, Sink::Write { .. }) {
            room.grow_to(body.received())?;
        }
        (sink, buffer) = blocking(move || {
            sink.write(&buffer).map_err(RequestError::io("write an upload"))?;
            buffer.clear();
            Ok((sink, buffer))
        })
        .await?;
        if ended {
            return Ok(sink);
        }
    }
}

/// Where an upload goes.
enum Sink {
    /// To a temporary file.
    Write { temp: TempFile, hash: Sha256 },
    /// The name is taken: only to the hash. A retry after a lost reply costs no disk.
    Compare { hash: Sha256 },
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Write { temp, hash } => {
                hash.update(bytes);
                temp.write_all(bytes)
            }
            Self::Compare { hash } => {
                hash.update(bytes);
                Ok(())
            }
        }
    }

    fn finish(self, repo: &Repo, item: &Item, path: &Path, length: u64) -> Result<Published, RequestError> {
        let (temp, hash) = match self {
            Self::Write { temp, hash } => (Some(temp), hash),
            Self::Compare { hash } => (None, hash),
        };
        let digest = hex::encode(hash.finalize());
        match item {
            Item::Config => publish_config(temp, path, length, &digest),
            Item::Object(kind, id) => {
                if digest != id.as_str() {
                    let text = format!("the name is not the SHA-256 of the {length} bytes received");
                    return Err(RequestError::Bad(text));
                }
                publish_object(temp, repo, *kind, path, length)
            }
        }
    }
}

fn publish_object(
    temp: Option<TempFile>,
    repo: &Repo,
    kind: Kind,
    path: &Path,
    length: u64,
) -> Result<Published, RequestError> {
    let published = match temp {
        Some(temp) => {
            // Guards only types of a few small objects, so nobody waits long.
            let counted = kind.max_count().is_some();
            let _guard = counted.then(|| repo.counted.lock().unwrap_or_else(PoisonError::into_inner));
            repo.check_count(kind)?;
            temp.publish(path).map_err(RequestError::io("store an object"))?
        }
        None => {
            fsync_parent(path).map_err(RequestError::io("fsync a folder"))?;
            Published::Taken
        }
    };
    if published == Published::Taken {
        let stored = fs::metadata(path).map_err(RequestError::io("look at an object"))?.len();
        if stored != length {
            // The body's hash is the name, so what is stored cannot be: a broken disk or hand.
            let text = format!("{} has {stored} bytes, should have {length}", kind.as_str());
            return Err(RequestError::Damaged(text));
        }
    }
    Ok(published)
}

fn publish_config(
    temp: Option<TempFile>,
    path: &Path,
    length: u64,
    digest: &str,
) -> Result<Published, RequestError> {
    let Some(temp) = temp else {
        return Err(RequestError::Forbidden("the repository has a config already".to_owned()));
    };
    if length == 0 {
        return Err(RequestError::Bad("an empty config".to_owned()));
    }
    let published = temp.publish(path).map_err(RequestError::io("store the config"))?;
    if published == Published::Taken {
        let stored =
            super::watch::read_bounded(path, MAX_CONFIG).map_err(RequestError::io("read the config"))?;
        // The same bytes again are a retry after a lost reply.
        if hex::encode(Sha256::digest(&stored)) != digest {
            let text = "the repository has a config already; it is never overwritten";
            return Err(RequestError::Forbidden(text.to_owned()));
        }
    }
    Ok(published)
}
