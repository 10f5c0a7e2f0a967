//! The register: a PostgreSQL database as its applications see it.

use crate::manifests;
use crate::sites::Names;
use crate::wait::until;
use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use testbed::Cluster;

/// What the application was told: number of the row and the moment the answer came.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// Number of the row.
    pub id: u64,
    /// When its commit was acknowledged.
    pub at: Timestamp,
}

/// A database in one namespace of one cluster.
#[derive(Clone, Debug)]
pub struct Register {
    /// The cluster's kubeconfig; kubectl is built anew for each call.
    namespace: String,
}

impl Register {
    /// In this namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// Creates namespace and database at home and fills it with pgbench's tables.
    ///
    /// # Errors
    /// What does not come up.
    pub fn create(cluster: &Cluster, names: &Names, node_port: u16) -> Result<Self> {
        let register = Self::new(&names.home);
        cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}}}\n", names.home))?;
        cluster.apply(&manifests::register(names, node_port))?;
        register.wait_ready(cluster, Duration::from_secs(120))?;
        register.sql(cluster, "postgres", "create database register")?;
        register.exec(cluster, &["pgbench", "-qis", "1", "register"])?;
        register.sql(
            cluster,
            "register",
            "create table acked (id bigint primary key, at timestamptz default clock_timestamp())",
        )?;
        Ok(register)
    }

    /// Waits until the database answers.
    ///
    /// # Errors
    /// When time is up.
    pub fn wait_ready(&self, cluster: &Cluster, limit: Duration) -> Result<()> {
        until("PostgreSQL to answer", limit, || self.sql(cluster, "postgres", "select 1").map(Some)).map(drop)
    }

    /// Runs a program in the database's pod.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub fn exec(&self, cluster: &Cluster, command: &[&str]) -> Result<String> {
        let mut args = vec!["exec", "-n", &self.namespace, "postgres-0", "--request-timeout=20s", "--"];
        args.extend(command);
        cluster.kubectl(&args)
    }

    /// Runs one statement and returns what it prints.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub fn sql(&self, cluster: &Cluster, database: &str, statement: &str) -> Result<String> {
        let out =
            self.exec(cluster, &["psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement])?;
        Ok(out.trim().to_owned())
    }

    /// pgbench's own invariant: balances of accounts, tellers and branches and the history agree.
    /// Returns the number of rows in the history.
    ///
    /// # Errors
    /// When they do not agree.
    pub fn check_invariant(&self, cluster: &Cluster) -> Result<u64> {
        let sums = self.sql(
            cluster,
            "register",
            "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
             (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history), \
             (select count(*) from pgbench_history)",
        )?;
        let parts: Vec<&str> = sums.split('|').collect();
        let [accounts, tellers, branches, history, rows] = parts.as_slice() else {
            bail!("unexpected answer {sums}");
        };
        if !(accounts == tellers && tellers == branches && branches == history) {
            bail!("the sums do not agree: {sums}");
        }
        Ok(rows.parse()?)
    }

    /// The numbers of the acknowledged rows that the database holds.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub fn rows(&self, cluster: &Cluster) -> Result<std::collections::BTreeSet<u64>> {
        let text = self.sql(cluster, "register", "select id from acked")?;
        text.lines().map(|line| line.parse().context("a number")).collect()
    }

    /// pgbench in the background, until it is dropped or the database goes away.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn pgbench(&self, cluster: &Cluster) -> Result<Background> {
        let mut kubectl = cluster.kubectl_command()?;
        kubectl.args(["exec", "-n", &self.namespace, "postgres-0", "--"]);
        kubectl.args(["pgbench", "-n", "-c", "2", "-T", "900", "-R", "100", "register"]);
        Background::start(&mut kubectl)
    }

    /// An application that writes row after row, and remembers what was acknowledged and when.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn writer(&self, cluster: &Cluster, first: u64) -> Result<Writer> {
        let mut kubectl = cluster.kubectl_command()?;
        kubectl.args(["exec", "-i", "-n", &self.namespace, "postgres-0", "--"]);
        kubectl.args(["psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-d", "register"]);
        Writer::start(&mut kubectl, first)
    }
}

/// A child process that ends with this value.
pub struct Background(Child);

impl Background {
    fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("cannot start it")?))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself with the site; there is nothing to do about either answer.
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// See [`Register::writer`].
pub struct Writer {
    child: Child,
    acked: Arc<Mutex<Vec<Acked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(command: &mut Command, first: u64) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("cannot start the writer")?;
        let mut to = child.stdin.take().context("no stdin")?;
        let mut from = BufReader::new(child.stdout.take().context("no stdout")?);
        let acked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, ended) = (acked.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for id in first.. {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let statement = format!("insert into acked (id) values ({id}) returning id;\n");
                let mut line = String::new();
                let sent = to.write_all(statement.as_bytes()).and_then(|()| to.flush());
                if sent.is_err() || from.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if line.trim() == id.to_string()
                    && let Ok(mut log) = log.lock()
                {
                    log.push(Acked { id, at: Timestamp::now() });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Ok(Self { child, acked, stop, thread: Some(thread) })
    }

    /// What was acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> Vec<Acked> {
        self.acked.lock().map(|log| log.clone()).unwrap_or_default()
    }

    /// When the last row was acknowledged.
    #[must_use]
    pub fn last(&self) -> Option<Acked> {
        self.acked.lock().ok().and_then(|log| log.last().copied())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _gone = self.child.kill();
        let _ended = self.child.wait();
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}
