//! A vault as a process, and small clients.

use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};
use reqwest::blocking::{Client, Response};
use sha2::{Digest as _, Sha256};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for anything that should happen at once.
pub const SOON: Duration = Duration::from_secs(30);

/// Waits for a condition, or fails naming it.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running vault; killed when dropped.
pub struct Vault {
    pub child: Child,
    pub address: SocketAddr,
    pub health: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Vault {
    /// Starts one with these flags beside the addresses, and waits until it listens.
    pub fn start(flags: &[String]) -> Self {
        Self::try_start(flags).unwrap_or_else(|log| panic!("the vault did not start:\n{log}"))
    }

    /// As [`Self::start`], with the log as the error.
    pub fn try_start(flags: &[String]) -> Result<Self, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_embassy"))
            .args(["vault", "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .args(flags)
            // The log is parsed here: plain text, whatever this shell prefers.
            .env("NO_COLOR", "1")
            .env_remove("EMBASSY_LOG")
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, receiver) = mpsc::channel();
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("address=") {
                    sender.send(address.parse::<SocketAddr>().unwrap()).ok();
                }
                lines.lock().unwrap().push(line);
            }
        });
        let next = || receiver.recv_timeout(SOON);
        match (next(), next()) {
            (Ok(health), Ok(address)) => Ok(Self { child, address, health, log }),
            _ => {
                child.kill().ok();
                child.wait().unwrap();
                Err(log.lock().unwrap().join("\n"))
            }
        }
    }

    /// A plain vault on `data` for whom everybody is home.
    pub fn plain(data: &Path, more: &[&str]) -> Self {
        let mut flags = flags(&["--insecure-standalone", "--data", data.to_str().unwrap()]);
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        Self::start(&flags)
    }

    /// Address of something in it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// The value of the metric whose line begins so.
    pub fn metric(&self, start: &str) -> Option<f64> {
        let text = client().get(format!("http://{}/metrics", self.health)).send().ok()?.text().ok()?;
        text.lines().find_map(|line| line.strip_prefix(start)?.trim().parse().ok())
    }

    /// SIGKILL, as by the kernel or a power switch.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- log of the vault\n{}\n---", self.log());
        }
    }
}

pub fn flags(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

/// A plain client without a pool: each request is a connection, as after a restart.
pub fn client() -> Client {
    crypto();
    // No system proxies: these tests talk to loopback only.
    Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(SOON * 4).build().unwrap()
}

/// The crate's TLS provider, once per process; a second call changes nothing.
pub fn crypto() {
    rustls::crypto::ring::default_provider().install_default().ok();
}

pub fn id(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Creates a repository with a config.
pub fn create(vault: &Vault, repo: &str) {
    let client = client();
    let made = client.post(vault.url(&format!("{repo}/?create=true"))).send().unwrap();
    assert_eq!(made.status(), 200);
    let config = client.post(vault.url(&format!("{repo}/config"))).body("a config").send().unwrap();
    assert_eq!(config.status(), 200);
}

/// Uploads an object under its right name and gives that.
pub fn put(vault: &Vault, repo: &str, kind: &str, content: &[u8]) -> (String, Response) {
    let name = id(content);
    let url = vault.url(&format!("{repo}/{kind}/{name}"));
    let response = client().post(url).body(content.to_vec()).send().unwrap();
    (name, response)
}

/// [`put`] that must be taken.
pub fn stored(vault: &Vault, repo: &str, kind: &str, content: &[u8]) -> String {
    let (name, response) = put(vault, repo, kind, content);
    let status = response.status();
    assert_eq!(status, 200, "{}", response.text().unwrap());
    name
}

/// Every file below a folder, with its content's hash.
pub fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push((entry.path(), id(&std::fs::read(entry.path()).unwrap()))),
            }
        }
    }
    found.sort();
    found
}

/// Fails when an upload left something behind.
pub fn assert_no_leftovers(data: &Path) {
    wait_for("no temporary file is left", SOON, || files(&data.join(".tmp")).is_empty().then_some(()));
}

pub fn temp() -> TempDir {
    tempfile::Builder::new().prefix("embassy-vault-").tempdir().unwrap()
}
