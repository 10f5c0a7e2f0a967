//! A place to work in, and the programs under test.

use data_embassy::api::report::{MoverReason, MoverReport};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A temporary directory with a password, a repository path, and both programs.
pub struct Bench {
    pub dir: tempfile::TempDir,
    /// Where the repository is; `repo` in the directory unless a test sets another.
    pub repository: String,
    /// Options that go with it.
    pub options: Vec<String>,
}

/// How a run ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub report: MoverReport,
}

impl Ended {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.report.success, "{:?}", self.report);
        self
    }

    #[track_caller]
    pub fn fails_with(self, reason: MoverReason) -> Self {
        assert_ne!(self.code, Some(0), "it should have failed: {}", self.stdout);
        assert_eq!(self.report.reason, Some(reason), "{:?}\n{}", self.report, self.stderr);
        assert!(!self.report.success && !self.report.proven, "{:?}", self.report);
        self
    }
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("mover-test-").tempdir().unwrap();
        // 43 characters: a password that counts as random and opens fast.
        fs::write(dir.path().join("password"), "0123456789abcdef0123456789abcdef0123456789a\n").unwrap();
        let repository = dir.path().join("repo").to_str().unwrap().to_owned();
        Self { dir, repository, options: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embassy"));
        command.args(["mover", verb, "--repository"]).arg(&self.repository).args(&self.options);
        command.arg("--password-file").arg(self.path("password"));
        command.env_remove("RESTIC_REPOSITORY").env_remove("RESTIC_PASSWORD_FILE");
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, verb: &str, args: impl IntoIterator<Item = S>) -> Ended {
        let mut command = self.command(verb);
        command.args(args).arg("--json").arg("--termination-log").arg(self.path("termination"));
        self.finish(&mut command)
    }

    pub fn finish(&self, command: &mut Command) -> Ended {
        let _ = fs::remove_file(self.path("termination"));
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = fs::read_to_string(self.path("termination")).unwrap_or_default();
        Ended {
            code: status.code(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            report: serde_json::from_str(&text).unwrap_or_default(),
        }
    }

    /// Backs `source` up by hand.
    pub fn backup(&self, source: &Path) -> Ended {
        self.run("backup", [OsStr::new("--init"), OsStr::new("--source"), source.as_os_str()])
    }

    /// Restores the latest snapshot.
    pub fn restore(&self, target: &Path) -> Ended {
        let args = ["--snapshot", "latest", "--delete", "--target"].map(OsStr::new);
        self.run("restore", args.into_iter().chain([target.as_os_str()]))
    }

    pub fn verify(&self, target: &Path) -> Ended {
        let args = ["--snapshot", "latest", "--target"].map(OsStr::new);
        self.run("verify", args.into_iter().chain([target.as_os_str()]))
    }

    /// Runs Debian's restic on the same repository.
    #[track_caller]
    pub fn restic(&self, args: &[&str]) -> String {
        let output = Command::new("restic")
            .arg("--repo")
            .arg(self.path("repo"))
            .arg("--password-file")
            .arg(self.path("password"))
            .args(["--no-cache", "--quiet"])
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .expect("restic must be installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restic {args:?}: {text}{error}");
        text
    }

    /// All files below a directory of the repository.
    pub fn stored(&self, kind: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![self.path("repo").join(kind)];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => todo.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Files without permissions are no obstacle for root, and the tests run as root.
        let _ = fs::remove_dir_all(self.dir.path());
    }
}
