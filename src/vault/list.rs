//! Lists of names, streamed: a repository of a million packs must not become a string in memory.

use axum::body::{Body, Bytes};
use http::{HeaderMap, HeaderValue, Response, header};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::PathBuf;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;

const V1: &str = "application/vnd.x.restic.rest.v1";
const V2: &str = "application/vnd.x.restic.rest.v2";
/// Bytes of text in one piece, and pieces waiting for a slow reader.
const PIECE: usize = 64 << 10;
const PIECES: usize = 2;

/// Answers with the names in `folders` that `accept` takes, sorted within each folder: version 1 is
/// an array of names, version 2 one of `{name, size}`. `place` is held until the reader has it all.
#[must_use]
pub fn send(
    folders: Vec<PathBuf>,
    headers: &HeaderMap,
    accept: fn(&str) -> bool,
    place: OwnedSemaphorePermit,
) -> Response<Body> {
    let sizes = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(wants_sizes);
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut list = List { sender, text: String::from("["), sizes, first: true, accept };
        let ended = list.walk(&folders);
        list.finish(ended);
        drop(place);
    });
    // The first piece that is an error breaks the connection off: half a list must never look like
    // a whole one.
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(receiver)));
    let kind = HeaderValue::from_static(if sizes { V2 } else { V1 });
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn wants_sizes(accept: &str) -> bool {
    accept.split(',').any(|kind| kind.split(';').next().unwrap_or_default().trim() == V2)
}

struct List {
    sender: mpsc::Sender<io::Result<Bytes>>,
    text: String,
    sizes: bool,
    first: bool,
    accept: fn(&str) -> bool,
}

/// The reader went away, or the disk failed.
enum Stop {
    Gone,
    Io(io::Error),
}

impl List {
    fn walk(&mut self, folders: &[PathBuf]) -> Result<(), Stop> {
        for folder in folders {
            // One folder of names is held at a time: packs are spread over 256.
            let mut names = Vec::new();
            for entry in fs::read_dir(folder).map_err(Stop::Io)? {
                let name = entry.map_err(Stop::Io)?.file_name();
                names.extend(name.to_str().filter(|name| (self.accept)(name)).map(str::to_owned));
            }
            names.sort_unstable();
            for name in names {
                let size = if self.sizes {
                    match fs::metadata(folder.join(&name)) {
                        Ok(meta) => meta.len(),
                        // A lock deleted meanwhile.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(Stop::Io(error)),
                    }
                } else {
                    0
                };
                self.add(&name, size)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, size: u64) -> Result<(), Stop> {
        if !std::mem::take(&mut self.first) {
            self.text.push(',');
        }
        // Names are hex or decimal digits by `accept`: nothing to escape.
        let written = if self.sizes {
            write!(self.text, "{{\"name\":\"{name}\",\"size\":{size}}}")
        } else {
            write!(self.text, "\"{name}\"")
        };
        written.map_err(|error| Stop::Io(io::Error::other(error)))?;
        if self.text.len() >= PIECE { self.push() } else { Ok(()) }
    }

    fn push(&mut self) -> Result<(), Stop> {
        let piece = Bytes::from(std::mem::take(&mut self.text));
        self.sender.blocking_send(Ok(piece)).map_err(|_| Stop::Gone)
    }

    fn finish(mut self, ended: Result<(), Stop>) {
        match ended {
            Ok(()) => {
                self.text.push(']');
                // Nobody left to tell when this fails.
                let _ = self.push();
            }
            Err(Stop::Gone) => {}
            Err(Stop::Io(error)) => {
                tracing::error!(%error, "a list broke off");
                let _ = self.sender.blocking_send(Err(error));
            }
        }
    }
}
