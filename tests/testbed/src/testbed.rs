//! An instance: its clusters and the network between them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cluster::{Cluster, Kind};
use crate::net::{Action, MAX_CLUSTERS, MAX_INSTANCES, Network};
use crate::process::{self, Process};
use crate::{boot, cache, clean, host, image, net, sys};

/// What is wanted of a new instance.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The instance's number, or the lowest free one.
    pub instance: Option<u8>,
    /// Its clusters by name.
    pub clusters: Vec<(String, Kind)>,
    /// Whether the storage provisioner runs in the full clusters.
    pub storage: bool,
    /// Whether the instance outlives this process; otherwise it is removed with the [`Testbed`],
    /// or by the next `up` or `clean` when this process dies.
    pub detached: bool,
}

impl Spec {
    /// The two clusters that every test across sites needs: `home` and `embassy`.
    #[must_use]
    pub fn two() -> Self {
        Self::full(&["home", "embassy"])
    }

    /// Full clusters with these names.
    #[must_use]
    pub fn full(names: &[&str]) -> Self {
        let clusters = names.iter().map(|name| ((*name).to_owned(), Kind::Full)).collect();
        Self { instance: None, clusters, storage: true, detached: false }
    }

    /// The same with a `witness` without a node.
    #[must_use]
    pub fn with_witness(mut self) -> Self {
        self.clusters.push(("witness".to_owned(), Kind::ControlPlane));
        self
    }

    fn check(&self) -> Result<()> {
        if self.instance.is_some_and(|number| number >= MAX_INSTANCES) {
            bail!("an instance is a number from 0 to {}", MAX_INSTANCES - 1);
        }
        if self.clusters.is_empty() || self.clusters.len() > usize::from(MAX_CLUSTERS) {
            bail!("an instance has one to {MAX_CLUSTERS} clusters");
        }
        for (at, (name, _)) in self.clusters.iter().enumerate() {
            net::check_name(name)?;
            if self.clusters.iter().take(at).any(|(other, _)| other == name) {
                bail!("two clusters are called `{name}`");
            }
        }
        Ok(())
    }
}

/// What is on disk of an instance.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct State {
    boot: String,
    owner: Option<Process>,
    clusters: Vec<(String, Kind)>,
}

/// The folder of all instances: `DATA_EMBASSY_RUN`, or `/var/lib/data-embassy-testbed`.
#[must_use]
pub fn base() -> PathBuf {
    std::env::var_os("DATA_EMBASSY_RUN")
        .map_or_else(|| PathBuf::from("/var/lib/data-embassy-testbed"), PathBuf::from)
}

fn dir_of(number: u8) -> PathBuf {
    base().join(number.to_string())
}

fn read_state(number: u8) -> Option<State> {
    serde_json::from_slice(&fs::read(dir_of(number).join("instance.json")).ok()?).ok()
}

/// Whether somebody still has use for the instance.
fn live(number: u8) -> bool {
    let Some(state) = read_state(number) else {
        return false;
    };
    if process::boot_id().ok() != Some(state.boot) {
        return false;
    }
    match state.owner {
        Some(owner) => owner.alive(),
        // All its sites may have lost their power: it is there until somebody takes it down.
        None => Network::new(number).exists(),
    }
}

/// The numbers of the instances that are in use.
#[must_use]
pub fn live_instances() -> Vec<u8> {
    (0..MAX_INSTANCES).filter(|number| live(*number)).collect()
}

/// Removes everything of the instances that nobody has use for any more, and returns their numbers.
pub fn clean_dead() -> Result<Vec<u8>> {
    host::require_root()?;
    clean::check_base(&base())?;
    let _held = sys::lock(&base().join("lock"))?;
    let mut cleaned = Vec::new();
    for number in (0..MAX_INSTANCES).filter(|number| !live(*number)) {
        if !clean::traces(number, &dir_of(number))?.is_empty() {
            clean::instance(number, &dir_of(number))?;
            cleaned.push(number);
        }
    }
    Ok(cleaned)
}

/// A running instance.
#[derive(Debug)]
pub struct Testbed {
    number: u8,
    clusters: Vec<Cluster>,
    owned: bool,
}

impl Testbed {
    /// Makes an instance and waits until all its clusters are ready. Everything that this needs is
    /// built or installed first.
    pub fn up(spec: &Spec) -> Result<Self> {
        spec.check()?;
        host::require_root()?;
        host::require(host::CLUSTER)?;
        cache::kube()?;
        if spec.clusters.iter().any(|(_, kind)| *kind == Kind::Full) {
            image::base()?;
            cache::snapshot_crds()?;
        }
        let number = claim(spec)?;
        let clusters = members(number, &spec.clusters)?;
        let testbed = Self { number, clusters, owned: true };
        if let Err(error) = testbed.start(spec) {
            return Err(match testbed.down() {
                Ok(()) => error,
                Err(also) => error.context(format!("and the cleaning failed: {also:#}")),
            });
        }
        if spec.detached {
            return testbed.detach();
        }
        Ok(testbed)
    }

    fn start(&self, spec: &Spec) -> Result<()> {
        share_mounts(&self.dir())?;
        self.network().create()?;
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let starts: Vec<_> = self
                .clusters
                .iter()
                .map(|cluster| scope.spawn(|| boot::start(cluster, spec.storage)))
                .collect();
            let died = |_| Err(anyhow::anyhow!("a starting thread died"));
            starts.into_iter().map(|start| start.join().unwrap_or_else(died)).collect()
        });
        results.into_iter().collect()
    }

    /// Takes hold of an instance that runs, without owning it.
    pub fn attach(number: u8) -> Result<Self> {
        let state = read_state(number)
            .filter(|_| live(number))
            .with_context(|| format!("no instance {number} is up"))?;
        let clusters = members(number, &state.clusters)?;
        Ok(Self { number, clusters, owned: false })
    }

    /// Lets the instance outlive this process.
    pub fn detach(mut self) -> Result<Self> {
        let mut state = read_state(self.number).context("the instance has no record")?;
        state.owner = None;
        write_state(self.number, &state)?;
        self.owned = false;
        Ok(self)
    }

    /// Removes everything of the instance.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        let _held = sys::lock(&base().join("lock"))?;
        clean::instance(self.number, &self.dir())
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        dir_of(self.number)
    }

    /// Its clusters.
    #[must_use]
    pub fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// A cluster by its name.
    pub fn cluster(&self, name: &str) -> Result<&Cluster> {
        self.clusters
            .iter()
            .find(|cluster| cluster.name() == name)
            .with_context(|| format!("instance {} has no cluster `{name}`", self.number))
    }

    /// Its network.
    #[must_use]
    pub fn network(&self) -> Network {
        Network::new(self.number)
    }

    fn net_of(&self, name: &str) -> Result<String> {
        Ok(self.cluster(name)?.addresses().node_network())
    }

    /// Loses every packet from one cluster to another, silently, also of connections that stand.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.net_of(from)?, self.net_of(to)?);
        self.network().add_fault(Some(&from), Some(&to), &Action::Drop)
    }

    /// Loses every packet between two clusters, both ways.
    pub fn cut(&self, a: &str, b: &str) -> Result<()> {
        self.cut_one_way(a, b)?;
        self.cut_one_way(b, a)
    }

    /// Ends [`Self::cut_one_way`].
    pub fn heal_one_way(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.net_of(from)?, self.net_of(to)?);
        self.network().remove_fault(Some(&from), Some(&to), &Action::Drop)
    }

    /// Ends [`Self::cut`], and the rest of one that was cut one way.
    pub fn heal(&self, a: &str, b: &str) -> Result<()> {
        self.heal_one_way(a, b)?;
        self.heal_one_way(b, a)
    }

    /// Cuts a cluster from all others. The host, from where tests look on, still reaches it.
    pub fn isolate(&self, name: &str) -> Result<()> {
        for other in self.clusters.iter().filter(|other| other.name() != name) {
            self.cut(name, other.name())?;
        }
        Ok(())
    }

    /// Cuts a cluster from everything, the host included.
    pub fn cut_off(&self, name: &str) -> Result<()> {
        let net = self.net_of(name)?;
        self.network().add_fault(Some(&net), None, &Action::Drop)?;
        self.network().add_fault(None, Some(&net), &Action::Drop)
    }

    /// Ends [`Self::isolate`] and [`Self::cut_off`].
    pub fn rejoin(&self, name: &str) -> Result<()> {
        let net = self.net_of(name)?;
        self.network().remove_fault(Some(&net), None, &Action::Drop)?;
        self.network().remove_fault(None, Some(&net), &Action::Drop)?;
        for other in self.clusters.iter().filter(|other| other.name() != name) {
            self.heal(name, other.name())?;
        }
        Ok(())
    }

    /// Loses this many of a hundred packets between two clusters; 0 ends it.
    pub fn lose(&self, a: &str, b: &str, percent: u8) -> Result<()> {
        let (a, b) = (self.net_of(a)?, self.net_of(b)?);
        for (from, to) in [(&a, &b), (&b, &a)] {
            for old in 1..=99 {
                let rule = Action::Lose(old);
                if self.network().has_fault(Some(from), Some(to), &rule) {
                    self.network().remove_fault(Some(from), Some(to), &rule)?;
                }
            }
            if (1..=99).contains(&percent) {
                self.network().add_fault(Some(from), Some(to), &Action::Lose(percent))?;
            }
        }
        Ok(())
    }

    /// Ends all faults of the network.
    pub fn heal_all(&self) -> Result<()> {
        self.network().clear_faults()
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if std::env::var_os("DATA_EMBASSY_KEEP").is_some() {
            tracing::warn!("DATA_EMBASSY_KEEP: instance {} is left for the next clean", self.number);
            return;
        }
        let held = sys::lock(&base().join("lock"));
        if let Err(error) = held.and_then(|_held| clean::instance(self.number, &self.dir())) {
            tracing::error!("instance {} is not removed wholly: {error:#}", self.number);
        }
    }
}

/// Takes a number, under the lock, and removes what a dead instance of that number left.
fn claim(spec: &Spec) -> Result<u8> {
    clean::check_base(&base())?;
    let _held = sys::lock(&base().join("lock"))?;
    let number = match spec.instance {
        Some(number) if live(number) => bail!("instance {number} is up already"),
        Some(number) => number,
        None => (0..MAX_INSTANCES).find(|number| !live(*number)).context("all instances are in use")?,
    };
    clean::instance(number, &dir_of(number))
        .with_context(|| format!("cannot remove what instance {number} left"))?;
    let state =
        State { boot: process::boot_id()?, owner: Some(Process::own()?), clusters: spec.clusters.clone() };
    write_state(number, &state)?;
    Ok(number)
}

fn write_state(number: u8, state: &State) -> Result<()> {
    sys::write_atomic(&dir_of(number).join("instance.json"), serde_json::to_vec_pretty(state)?)
}

fn members(number: u8, clusters: &[(String, Kind)]) -> Result<Vec<Cluster>> {
    let dir = dir_of(number);
    (0..MAX_CLUSTERS)
        .zip(clusters)
        .map(|(index, (name, kind))| {
            net::check_name(name)?;
            Ok(Cluster::new(number, name, *kind, index, dir.join(name)))
        })
        .collect()
}

/// Pods that mount with propagation need a shared mount; the instance gets one of its own, so that
/// the machine's root stays as it is.
fn share_mounts(dir: &Path) -> Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
    mount_bind_recursive(dir, dir).context("cannot bind the instance's folder")?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change(dir, shared).context("cannot share the instance's mounts")
}
