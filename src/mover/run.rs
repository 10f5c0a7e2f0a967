//! One run from start to report: signals, progress, panics, the termination message.

use super::args::{Access, Output};
use super::backend::{self, Location};
use super::error::{MoverError, RepoError};
use super::progress::Progress;
use super::repo::{self, Opened};
use crate::api::report::{MoverKind, MoverReason, MoverReport};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Time between two lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Where the kubelet reads a termination message from unless the pod says otherwise.
const KUBELET_LOG: &str = "/dev/termination-log";
/// Entries were unreadable; all others are in the snapshot (restic's exit code for the same).
const EXIT_UNREADABLE: i32 = 3;

/// The state of a run.
pub struct Run {
    /// Counts, shared with all threads.
    pub progress: Arc<Progress>,
    /// What the run has to say so far.
    pub report: MoverReport,
    /// The vault, once it is opened.
    pub location: Option<Location>,
}

impl Run {
    /// Opens the repository of `access`.
    ///
    /// # Errors
    /// See [`repo::open`].
    pub fn open(&mut self, access: &Access, create: bool) -> Result<Opened, MoverError> {
        let password = repo::read_password(&access.password_file)?;
        let location =
            backend::open(&access.repository, &access.tls(), &self.progress).map_err(RepoError::Backend)?;
        let opened = repo::open(&location, &password, create)?;
        self.location = Some(location);
        Ok(opened)
    }

    /// The opened vault.
    ///
    /// # Errors
    /// Before [`Self::open`].
    pub fn location(&self) -> Result<Location, MoverError> {
        let missing = || MoverError::Usage("the repository is not open yet".to_owned());
        self.location.clone().ok_or_else(missing)
    }
}

/// Runs `work` and reports, whatever becomes of it.
///
/// # Errors
/// If the process cannot be set up.
pub fn execute(
    kind: MoverKind,
    output: &Output,
    quiet: bool,
    work: impl FnOnce(&mut Run) -> Result<(), MoverError>,
) -> Result<i32, MoverError> {
    let started = Instant::now();
    raise_descriptor_limit();
    let progress = Arc::new(Progress::default());
    let mut run = Run {
        progress: progress.clone(),
        report: MoverReport { kind, ..MoverReport::default() },
        location: None,
    };
    stop_on_signal(&progress)?;
    let result = std::thread::scope(|scope| {
        let done = std::sync::mpsc::channel::<()>();
        if output.json {
            let progress = &progress;
            scope.spawn(move || lines(progress, &done.1));
        }
        // The library panics on some broken repositories; the operator needs a report even then.
        let work = std::panic::AssertUnwindSafe(|| work(&mut run));
        let result = std::panic::catch_unwind(work);
        drop(done.0);
        result.unwrap_or_else(|_| {
            Err(MoverError::Missed {
                reason: MoverReason::Failed,
                message: "a part of the mover broke down; its log says where".to_owned(),
            })
        })
    });
    // A signal while the library was busy comes out as whatever the library makes of it.
    let result = match result {
        Err(_) if progress.stopped() => Err(MoverError::Interrupted),
        other => other,
    };
    finish(&mut run, &result, started.elapsed());
    publish(&run.report, output, quiet, &result);
    Ok(match &run.report.reason {
        None => 0,
        Some(MoverReason::Unreadable) => EXIT_UNREADABLE,
        Some(_) => 1,
    })
}

fn finish(run: &mut Run, result: &Result<(), MoverError>, elapsed: Duration) {
    let misses = run.progress.misses();
    let report = &mut run.report;
    report.success = result.is_ok() && misses.total == 0;
    report.files = run.progress.files.load(Ordering::SeqCst);
    report.bytes = run.progress.bytes.load(Ordering::SeqCst);
    report.bytes_added += run.progress.written.load(Ordering::SeqCst);
    report.duration_seconds = elapsed.as_secs_f64();
    report.errors_total = misses.total;
    report.errors = misses.named;
    if let Err(error) = result {
        report.reason = Some(error.reason());
        report.message = crate::cli::chain(error);
        report.proven = false;
    }
}

fn publish(report: &MoverReport, output: &Output, quiet: bool, result: &Result<(), MoverError>) {
    let log = output.termination_log.clone().or_else(|| {
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        (in_pod && Path::new(KUBELET_LOG).exists()).then(|| PathBuf::from(KUBELET_LOG))
    });
    if let Some(path) = log
        && let Err(error) = std::fs::write(&path, report.to_termination_message())
    {
        eprintln!("embassy: the report cannot be written to {}: {error}", path.display());
    }
    for miss in &report.errors {
        eprintln!("embassy: {miss}");
    }
    if result.is_err() {
        eprintln!("embassy: {}", report.message);
    }
    if output.json {
        line(&serde_json::to_string(report).unwrap_or_default());
    } else if result.is_ok() && !quiet {
        line(&format!(
            "{}; {} entries, {} bytes, {} added, {:.1} s",
            report.message, report.files, report.bytes, report.bytes_added, report.duration_seconds
        ));
    }
}

/// Prints; a reader that went away is no reason to fail.
fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn lines(progress: &Progress, done: &std::sync::mpsc::Receiver<()>) {
    use std::sync::mpsc::RecvTimeoutError::Timeout;
    while done.recv_timeout(LINE_EVERY) == Err(Timeout) {
        let get = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
        let now = serde_json::json!({
            "files": get(&progress.files),
            "bytes": get(&progress.bytes),
            "totalFiles": get(&progress.total_files),
            "totalBytes": get(&progress.total_bytes),
        });
        line(&now.to_string());
    }
}

/// Every level of a directory tree holds a descriptor.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it only very deep trees fail, and they say so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// On SIGTERM or SIGINT: a clean stop, and the report says Interrupted.
fn stop_on_signal(progress: &Arc<Progress>) -> Result<(), MoverError> {
    use tokio::signal::unix::{SignalKind, signal};
    let what = "cannot listen to signals";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| MoverError::Setup { what, source })?;
    let progress = progress.clone();
    let (mut terminate, mut interrupt) = {
        let _guard = runtime.enter();
        let listen = |kind| signal(kind).map_err(|source| MoverError::Setup { what, source });
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        progress.stop();
    });
    Ok(())
}
