//! The stock `restic` program as the client, and as the reader of the folder.

use super::harness::*;
use super::pki::{Authority, Files};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

struct Restic {
    repository: String,
    tls: Vec<String>,
    cache: PathBuf,
}

impl Restic {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command.args(["--repo", &self.repository]).args(&self.tls).args(args);
        command.env("RESTIC_PASSWORD", "secret").env("RESTIC_CACHE_DIR", &self.cache);
        // Traffic of this test stays on loopback.
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        command.stdin(Stdio::null());
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("restic is not installed: run `apt-get install restic`")
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "restic {args:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }
}

fn source(dir: &Path) -> PathBuf {
    let source = dir.join("source");
    std::fs::create_dir_all(source.join("deep/er")).unwrap();
    for n in 0..200 {
        std::fs::write(source.join(format!("deep/small-{n}")), noise(n, 10 + (n as usize) * 37)).unwrap();
    }
    std::fs::write(source.join("deep/er/large"), noise(1000, 9 << 20)).unwrap();
    std::fs::write(source.join("empty"), "").unwrap();
    source
}

fn names(folder: &Path) -> Vec<(PathBuf, String)> {
    let found = files(folder).into_iter();
    found.map(|(path, hash)| (path.strip_prefix(folder).unwrap().to_owned(), hash)).collect()
}

fn round_trip(restic: &Restic, vault_data: &Path, dir: &Path) {
    let source = source(dir);
    restic.run(&["init"]);
    restic.run(&["backup", source.to_str().unwrap()]);
    std::fs::write(source.join("second"), noise(2000, 3 << 20)).unwrap();
    restic.run(&["backup", source.to_str().unwrap()]);
    restic.run(&["check", "--read-data"]);
    let restored = dir.join("restored");
    restic.run(&["restore", "latest", "--target", restored.to_str().unwrap()]);
    assert_eq!(names(&restored.join(source.strip_prefix("/").unwrap())), names(&source));

    // The folder itself is a local repository, with no part of ours.
    let local = Restic {
        repository: vault_data.join("register").to_str().unwrap().to_owned(),
        tls: vec![],
        cache: dir.join("cache-local"),
    };
    local.run(&["check", "--read-data"]);
    assert_eq!(local.run(&["snapshots", "--json"]).matches("short_id").count(), 2);
}

#[test]
fn restic_backs_up_restores_and_checks() {
    let dir = temp();
    let data = dir.path().join("data");
    let vault = Vault::plain(&data, &[]);
    let repository = format!("rest:{}", vault.url("register/"));
    let restic = Restic { repository, tls: vec![], cache: dir.path().join("cache") };
    round_trip(&restic, &data, dir.path());
    assert_no_leftovers(&data);
}

#[test]
fn restic_works_over_mutual_tls() {
    let dir = temp();
    let (data, ca) = (dir.path().join("data"), Authority::new("embassy"));
    let pems = Files::new(&dir.path().join("pem"), &ca.server(), &ca.pem());
    let home = ca.client("home");
    pems.write("home.pem", &format!("{}{}", home.key, home.cert));
    pems.write("ca.pem", &ca.pem());
    let vault = Vault::start(&pems.flags(&data));
    let tls = flags(&["--cacert", &pems.path("ca.pem"), "--tls-client-cert", &pems.path("home.pem")]);
    let repository = format!("rest:https://{}/register/", vault.address);
    round_trip(&Restic { repository, tls, cache: dir.path().join("cache") }, &data, dir.path());
}

/// Runs restic until the vault refused a DELETE (restic goes on asking for minutes) or it ended.
fn until_refused(vault: &Vault, mut child: Child, kind: &str) {
    let start = format!(
        "embassy_vault_requests_total{{role=\"home\",method=\"DELETE\",kind=\"{kind}\",code=\"403\"}} "
    );
    wait_for("the vault refuses to delete", SOON * 4, || {
        let refused = vault.metric(&start).is_some_and(|count| count > 0.0);
        (refused || child.try_wait().unwrap().is_some_and(|status| !status.success())).then_some(())
    });
    child.kill().ok();
    child.wait().unwrap();
}

#[test]
fn forget_and_prune_destroy_nothing() {
    let dir = temp();
    let data = dir.path().join("data");
    let vault = Vault::plain(&data, &[]);
    let repository = format!("rest:{}", vault.url("register/"));
    let restic = Restic { repository, tls: vec![], cache: dir.path().join("cache") };
    let source = source(dir.path());
    restic.run(&["init"]);
    for round in 0..2 {
        std::fs::write(source.join("deep/er/large"), noise(1000 + round, 3 << 20)).unwrap();
        restic.run(&["backup", source.to_str().unwrap()]);
    }
    let before = files(&data.join("register"));
    let spawn =
        |args: &[&str]| restic.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until_refused(
        &vault,
        spawn(&["forget", "--keep-last", "1", "--prune", "--max-unused", "0"]),
        "snapshots",
    );
    let after = files(&data.join("register"));
    for file in &before {
        assert!(after.contains(file), "{} is gone or altered", file.0.display());
    }
    restic.run(&["unlock", "--remove-all"]);
    restic.run(&["check", "--read-data"]);
    assert_eq!(restic.run(&["snapshots", "--json"]).matches("short_id").count(), 2);
}
