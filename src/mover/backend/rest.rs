//! A repository behind the restic REST protocol, and its dispatches.

use super::tls::{TlsFiles, client_config};
use super::{BackendError, Committed, DispatchStore, rest_path};
use crate::api::dispatch::{MAX_HEADER_BYTES, dispatch_name, parse_dispatch_name};
use crate::mover::progress::Progress;
use bytes::Bytes;
use reqwest::blocking::{Body, Client, RequestBuilder, Response};
use reqwest::header::{ACCEPT, RANGE};
use reqwest::{Method, StatusCode};
use rustic_core::{BytesList, FileType, Id, ReadBackend, RusticResult, WriteBackend};
use serde::Deserialize;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;
use url::{Host, Url};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers come within this, plus the time that the bytes take at [`SLOWEST`].
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes a second below which a transfer counts as broken off.
const SLOWEST: u64 = 64 << 10;
/// Requests for one thing, the first included; with the pauses about 13 s without answers.
const TRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// restic's second list format: names with sizes.
const V2: &str = "application/vnd.x.restic.rest.v2";
/// Most that is read of a refusal's body.
const MAX_REFUSAL: u64 = 4 << 10;

/// Most characters of a refusal that a report carries.
const MAX_WORDS: usize = 500;

/// See the module.
pub struct RestBackend {
    client: Client,
    base: Url,
    progress: Arc<Progress>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    size: u64,
}

/// The vault's body beside a refusal.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    reason: String,
    message: String,
}

impl RestBackend {
    /// A client for the repository at `url`.
    ///
    /// # Errors
    /// [`BackendError::Setup`]: not a URL, plain http to another host than loopback, bad PEM.
    pub fn new(url: &str, tls: &TlsFiles, progress: Arc<Progress>) -> Result<Self, BackendError> {
        let with_slash = if url.ends_with('/') { url.to_owned() } else { format!("{url}/") };
        let base = Url::parse(&with_slash)
            .map_err(|error| BackendError::Setup(format!("{url} is not a URL: {error}")))?;
        let builder = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(None)
            .pool_idle_timeout(Duration::from_secs(30))
            // A redirect or a proxy from the environment would carry the bytes elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only();
        let builder = match (base.scheme(), base.host()) {
            ("https", Some(_)) => builder.use_preconfigured_tls(client_config(tls)?),
            ("http", Some(Host::Ipv4(ip))) if ip.is_loopback() => builder,
            ("http", Some(Host::Ipv6(ip))) if ip.is_loopback() => builder,
            _ => {
                return Err(BackendError::Setup(format!(
                    "{url}: use https (http only to a loopback address)"
                )));
            }
        };
        // A static binary has no NSS: names are resolved by hickory, addresses not at all.
        let builder = if matches!(base.host(), Some(Host::Domain(_))) {
            builder.hickory_dns(true)
        } else {
            builder.no_hickory_dns()
        };
        let client = builder.build().map_err(|error| BackendError::Setup(text(&error)))?;
        Ok(Self { client, base, progress })
    }

    /// The address without user and password.
    #[must_use]
    pub fn name(&self) -> String {
        let mut url = self.base.clone();
        // Both fail only for URLs that cannot have a user at all.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        format!("rest:{url}")
    }

    fn url(&self, path: &str) -> Result<Url, BackendError> {
        self.base.join(path).map_err(|error| BackendError::Setup(error.to_string()))
    }

    /// Sends until there is an answer that a retry does not mend.
    fn send(
        &self,
        method: &Method,
        path: &str,
        transfer: u64,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, BackendError> {
        let url = self.url(path)?;
        let timeout = ANSWER_TIMEOUT + Duration::from_secs(transfer / SLOWEST);
        let mut pause = FIRST_PAUSE;
        let mut tried = 0;
        loop {
            tried += 1;
            let request = self.client.request(method.clone(), url.clone()).timeout(timeout);
            let why = match build(request).send() {
                Ok(answer) if retryable(answer.status()) => refusal(answer).1,
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_builder() => return Err(BackendError::Setup(text(&error))),
                Err(error) => text(&error),
            };
            // A pod that is to stop has 30 s: no time to wait for a vault that is away.
            if tried >= TRIES || self.progress.stopped() {
                return Err(BackendError::Unreachable { url: url.to_string(), tries: tried, why });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn ok(answer: Response) -> Result<Response, BackendError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let url = answer.url().to_string();
        Err(match status {
            StatusCode::NOT_FOUND => BackendError::NotFound(url),
            // Quota or disk, and the numbers: who reads the run's message must know which to raise.
            StatusCode::INSUFFICIENT_STORAGE => {
                let words: String = refusal(answer).1.chars().take(MAX_WORDS).collect();
                BackendError::Full(format!("{url} ({words})"))
            }
            _ => BackendError::Refused { url, status: status.as_u16(), body: refusal(answer).1 },
        })
    }

    /// The body of a GET, whole or a range; a body that breaks off is asked for again.
    fn get(&self, path: &str, range: Option<(u32, u32)>) -> Result<Bytes, BackendError> {
        let transfer = range.map_or(64 << 20, |(_, length)| u64::from(length));
        let mut why = String::new();
        for _ in 0..3 {
            let answer = Self::ok(self.send(&Method::GET, path, transfer, |request| match range {
                Some((offset, length)) => {
                    let last = u64::from(offset) + u64::from(length).saturating_sub(1);
                    request.header(RANGE, format!("bytes={offset}-{last}"))
                }
                None => request,
            })?)?;
            let status = answer.status();
            match answer.bytes() {
                Ok(bytes) => return check_range(path, range, status, bytes),
                Err(error) => why = text(&error),
            }
        }
        Err(BackendError::Unreachable { url: path.to_owned(), tries: 3, why })
    }

    fn list_path(&self, path: &str) -> Result<Vec<Listed>, BackendError> {
        let answer = self.send(&Method::GET, path, 64 << 20, |request| request.header(ACCEPT, V2))?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let bytes = Self::ok(answer)?
            .bytes()
            .map_err(|error| BackendError::Corrupt(format!("{path}: {}", text(&error))))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| BackendError::Corrupt(format!("{path}: no list: {error}")))
    }

    fn list_type(&self, tpe: FileType) -> Result<Vec<(Id, u32)>, BackendError> {
        if tpe == FileType::Config {
            let answer = self.send(&Method::HEAD, "config", 0, |request| request)?;
            return match answer.status() {
                StatusCode::NOT_FOUND => Ok(Vec::new()),
                _ => Self::ok(answer).map(|_| vec![(Id::default(), 0)]),
            };
        }
        let path = format!("{}/", tpe.dirname());
        let listed = self.list_path(&path)?;
        listed
            .into_iter()
            .filter(|entry| entry.name.len() == 64)
            .filter_map(|entry| Some((entry.name.parse::<Id>().ok()?, entry.size)))
            .map(|(id, size)| match u32::try_from(size) {
                Ok(size) => Ok((id, size)),
                Err(_) => Err(BackendError::Corrupt(format!("{path}: a file of {size} bytes"))),
            })
            .collect()
    }

    fn post(&self, path: &str, content: &BytesList) -> Result<Response, BackendError> {
        let size = content.size() as u64;
        // `sized` sets Content-Length; the parts are shared with the caller, not copied.
        self.send(&Method::POST, path, size, |request| {
            request.body(Body::sized(content.clone().reader(), size))
        })
    }
}

fn check_range(
    path: &str,
    range: Option<(u32, u32)>,
    status: StatusCode,
    bytes: Bytes,
) -> Result<Bytes, BackendError> {
    let Some((offset, length)) = range else { return Ok(bytes) };
    let (start, length) = match status {
        // A server that ignores ranges sends everything.
        StatusCode::OK => (offset as usize, length as usize),
        _ => (0, length as usize),
    };
    let end = start.saturating_add(length);
    if bytes.len() < end || (status == StatusCode::PARTIAL_CONTENT && bytes.len() != length) {
        return Err(BackendError::Corrupt(format!(
            "{path}: {length} bytes at {offset} wanted, {} bytes came",
            bytes.len()
        )));
    }
    Ok(bytes.slice(start..end))
}

/// 4xx never: asking again changes nothing, but for "too slow" and "too many". 507 neither: it is an
/// answer.
fn retryable(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT
        || status == StatusCode::TOO_MANY_REQUESTS
        || (status.is_server_error() && status != StatusCode::INSUFFICIENT_STORAGE)
}

/// Reason and message of a refusal, whether or not it is the vault's JSON.
fn refusal(answer: Response) -> (String, String) {
    let status = answer.status();
    let mut body = Vec::new();
    // A refusal without its words is still a refusal.
    let _ = answer.take(MAX_REFUSAL).read_to_end(&mut body);
    match serde_json::from_slice::<Refusal>(&body) {
        Ok(said) if !said.reason.is_empty() => {
            let message = format!("{}: {}", said.reason, said.message);
            (said.reason, message)
        }
        _ => (String::new(), format!("{status}: {}", String::from_utf8_lossy(&body).trim())),
    }
}

/// reqwest's own text leaves the cause out.
fn text(error: &dyn std::error::Error) -> String {
    crate::cli::chain(error)
}

impl ReadBackend for RestBackend {
    fn location(&self) -> String {
        self.name()
    }

    fn list_with_size(&self, tpe: FileType) -> RusticResult<Vec<(Id, u32)>> {
        self.list_type(tpe).map_err(BackendError::for_library)
    }

    fn read_full(&self, tpe: FileType, id: &Id) -> RusticResult<Bytes> {
        self.get(&rest_path(tpe, id), None).map_err(BackendError::for_library)
    }

    fn read_partial(
        &self,
        tpe: FileType,
        id: &Id,
        _cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        self.get(&rest_path(tpe, id), Some((offset, length))).map_err(BackendError::for_library)
    }

    fn warmup_path(&self, tpe: FileType, id: &Id) -> String {
        rest_path(tpe, id)
    }
}

impl WriteBackend for RestBackend {
    fn create(&self) -> RusticResult<()> {
        self.send(&Method::POST, "?create=true", 0, |request| request)
            .and_then(Self::ok)
            .map(drop)
            .map_err(BackendError::for_library)
    }

    fn write_bytes(&self, tpe: FileType, id: &Id, _cacheable: bool, content: BytesList) -> RusticResult<()> {
        self.post(&rest_path(tpe, id), &content)
            .and_then(Self::ok)
            .map(drop)
            .map_err(BackendError::for_library)
    }

    fn remove(&self, tpe: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        self.send(&Method::DELETE, &rest_path(tpe, id), 0, |request| request)
            .and_then(Self::ok)
            .map(drop)
            .map_err(BackendError::for_library)
    }
}

impl DispatchStore for RestBackend {
    fn list_dispatches(&self) -> Result<Vec<u64>, BackendError> {
        let mut out: Vec<u64> = self
            .list_path("dispatches/")?
            .iter()
            .filter_map(|entry| parse_dispatch_name(&entry.name))
            .collect();
        out.sort_unstable();
        Ok(out)
    }

    fn read_dispatch(&self, sequence: u64) -> Result<Vec<u8>, BackendError> {
        let path = format!("dispatches/{}", dispatch_name(sequence));
        let answer = Self::ok(self.send(&Method::GET, &path, 8 << 20, |request| request)?)?;
        let mut bytes = Vec::new();
        answer
            .take(MAX_HEADER_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| BackendError::Io { path, source })?;
        Ok(bytes)
    }

    fn commit_dispatch(&self, sequence: u64, bytes: &[u8]) -> Result<Committed, BackendError> {
        let path = format!("dispatches/{}", dispatch_name(sequence));
        let answer = self.post(&path, &BytesList::from(bytes.to_vec()))?;
        if answer.status().is_success() {
            return Ok(Committed::Done);
        }
        let status = answer.status();
        if status != StatusCode::CONFLICT {
            return Self::ok(answer).map(|_| Committed::Done);
        }
        let (reason, message) = refusal(answer);
        // The refusal may be the echo of our own header, committed by a request whose answer was
        // lost: what is stored decides.
        match self.read_dispatch(sequence) {
            Ok(stored) if stored == bytes => Ok(Committed::Done),
            Ok(_) => Ok(Committed::Taken),
            Err(BackendError::NotFound(_)) => Ok(Committed::Refused { reason, message }),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write as _;

    /// Answers one request with 507 and `words`.
    fn full_vault(words: &str) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = format!(
            "HTTP/1.1 507 Insufficient Storage\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{words}",
            words.len()
        );
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        format!("http://{address}/register/")
    }

    #[test]
    fn a_full_vault_says_in_its_own_words_what_is_full() {
        let quota = "the repository's quota of 100 bytes is used up (90 used, 20 more asked for)";
        // Another test may have been faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (words, most) in [(quota.to_owned(), quota.len()), ("x".repeat(2000), MAX_WORDS)] {
            let backend =
                RestBackend::new(&full_vault(&words), &TlsFiles::default(), Arc::default()).unwrap();
            let error = backend.get("config", None).unwrap_err();
            assert!(matches!(error, BackendError::Full(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&words[..most.min(70)]), "{text}");
            assert!(text.len() < most + 200, "{}", text.len());
        }
    }
}
