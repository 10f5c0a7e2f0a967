//! Command line of `embassy mover`.

use super::backend::tls::TlsFiles;
use super::source::Identity;
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};

/// Command line of `embassy mover`.
#[derive(Debug, Args)]
pub struct MoverArgs {
    #[command(subcommand)]
    pub(super) command: Box<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Backs a directory up, or makes a dispatch of volumes.
    Backup(Backup),
    /// Makes a directory, or the volumes of a dispatch, equal to what was backed up. A dispatch is compared
    /// afterwards; for a snapshot run `verify`.
    Restore(Restore),
    /// Compares directories with a snapshot or a dispatch, or the repository with itself.
    Verify(Verify),
    /// Lists the snapshots.
    Snapshots(Snapshots),
    /// Creates a repository.
    Init(Init),
}

/// Where the repository is and how to get in.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// A directory, or rest:https://HOST:PORT/NAME/
    #[arg(long, short, env = "RESTIC_REPOSITORY")]
    pub repository: String,
    /// File whose first line is the password.
    #[arg(long, env = "RESTIC_PASSWORD_FILE")]
    pub password_file: PathBuf,
    /// The CA (PEM) that signed the vault's certificate; no other is trusted.
    #[arg(long)]
    pub cacert: Option<PathBuf>,
    /// Our certificate (PEM).
    #[arg(long, requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, requires = "client_cert")]
    pub client_key: Option<PathBuf>,
}

impl Access {
    pub fn tls(&self) -> TlsFiles {
        TlsFiles { ca: self.cacert.clone(), cert: self.client_cert.clone(), key: self.client_key.clone() }
    }
}

/// How to report.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// One JSON line of progress every 2 s on stdout, and the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the report goes; in a pod the kubelet's file is the default.
    #[arg(long)]
    pub termination_log: Option<PathBuf>,
}

/// `NAME=DIRECTORY`.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    pub name: String,
    pub path: PathBuf,
}

impl std::str::FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("write NAME=DIRECTORY")?;
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if name.is_empty() || name.starts_with('.') || !name.chars().all(valid) {
            return Err(format!("{name:?} is not the name of a PersistentVolumeClaim"));
        }
        Ok(Self { name: name.to_owned(), path: Path::new(path).to_owned() })
    }
}

/// What to do about entries that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnUnreadable {
    /// Commit nothing.
    Fail,
    /// Commit what could be read, and report the rest.
    Report,
}

#[derive(Debug, Args)]
pub(super) struct Backup {
    #[command(flatten)]
    pub access: Access,
    #[command(flatten)]
    pub output: Output,
    /// The directory to back up (by hand).
    #[arg(long, conflicts_with = "dispatch")]
    pub source: Option<PathBuf>,
    /// Host of the snapshot (by hand).
    #[arg(long, default_value = "data-embassy")]
    pub host: String,
    /// Tag of the snapshot (by hand); repeatable.
    #[arg(long)]
    pub tag: Vec<String>,
    /// Create the repository if it is missing (a dispatch does so by itself).
    #[arg(long)]
    pub init: bool,
    /// What tells that a file did not change.
    #[arg(long, value_enum, default_value = "inode")]
    pub identity: Identity,
    /// Read every file, also those that look unchanged.
    #[arg(long)]
    pub force: bool,
    /// Make a dispatch: all volumes, signed and committed.
    #[arg(
        long,
        requires_all = ["pair", "data_embassy", "volume", "epoch", "cut_time", "signing_key_file"]
    )]
    pub dispatch: bool,
    /// The pair's id.
    #[arg(long)]
    pub pair: Option<String>,
    /// Name of the DataEmbassy.
    #[arg(long)]
    pub data_embassy: Option<String>,
    /// NAME=DIRECTORY; repeatable.
    #[arg(long)]
    pub volume: Vec<Volume>,
    /// Gzip of a JSON array of Kubernetes objects that go with the volumes.
    #[arg(long)]
    pub manifests: Option<PathBuf>,
    /// The writ's epoch at the cut.
    #[arg(long)]
    pub epoch: Option<u64>,
    /// When the volumes were cut, RFC 3339.
    #[arg(long)]
    pub cut_time: Option<jiff::Timestamp>,
    /// Home's ed25519 seed, 64 hex digits.
    #[arg(long)]
    pub signing_key_file: Option<PathBuf>,
    /// What a dispatch does about entries that cannot be read. (A snapshot by hand keeps the rest, as
    /// restic does, names them, and ends with code 3.)
    #[arg(long, value_enum, default_value = "fail")]
    pub on_unreadable: OnUnreadable,
    /// A volume that may be empty now although it was not before; repeatable.
    #[arg(long)]
    pub allow_empty: Vec<String>,
}

/// Which dispatch, and whose.
#[derive(Debug, Args)]
pub(super) struct WhichDispatch {
    /// A dispatch: its sequence, or `latest`.
    #[arg(long, requires_all = ["pair", "data_embassy", "volume", "verify_key_file"])]
    pub dispatch: Option<Which>,
    /// The pair's id.
    #[arg(long)]
    pub pair: Option<String>,
    /// Name of the DataEmbassy.
    #[arg(long)]
    pub data_embassy: Option<String>,
    /// NAME=DIRECTORY; repeatable.
    #[arg(long)]
    pub volume: Vec<Volume>,
    /// Home's public key, 64 hex digits.
    #[arg(long)]
    pub verify_key_file: Option<PathBuf>,
    /// Refuse any dispatch before this one: the vault may hide the newest.
    #[arg(long)]
    pub min_sequence: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Latest,
    Sequence(u64),
}

impl std::str::FromStr for Which {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "latest" { Ok(Self::Latest) } else { text.parse().map(Self::Sequence) }
    }
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    #[command(flatten)]
    pub access: Access,
    #[command(flatten)]
    pub output: Output,
    /// A snapshot (by hand): its id or the start of it, or `latest`.
    #[arg(long, conflicts_with = "dispatch", requires = "target")]
    pub snapshot: Option<String>,
    /// The directory to make equal to the snapshot's (by hand).
    #[arg(long)]
    pub target: Option<PathBuf>,
    /// Remove names that the snapshot does not have (by hand; a dispatch always does).
    #[arg(long)]
    pub delete: bool,
    /// Only say what differs (by hand).
    #[arg(long)]
    pub dry_run: bool,
    /// Read files that look unchanged, too (by hand).
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub which: WhichDispatch,
    /// Write the manifests (JSON) to this file.
    #[arg(long)]
    pub manifests_out: Option<PathBuf>,
    /// Write the manifests (gzip) into this existing Secret.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub manifests_secret: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    pub access: Access,
    #[command(flatten)]
    pub output: Output,
    /// A snapshot to compare `--target` with.
    #[arg(long, conflicts_with = "dispatch", requires = "target")]
    pub snapshot: Option<String>,
    /// The directory to compare.
    #[arg(long, requires = "snapshot")]
    pub target: Option<PathBuf>,
    /// Check the repository itself, and read this share of its data (0 to 100).
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100), conflicts_with = "snapshot")]
    pub read_data_percent: Option<u8>,
    #[command(flatten)]
    pub which: WhichDispatch,
}

#[derive(Debug, Args)]
pub(super) struct Snapshots {
    #[command(flatten)]
    pub access: Access,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    pub access: Access,
}
