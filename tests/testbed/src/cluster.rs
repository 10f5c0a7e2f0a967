//! One cluster of a testbed: where it is, how to talk to it, and what can be done to it.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustix::process::Signal;

use crate::cgroup::Cgroup;
use crate::components::{Component, Config};
use crate::net::{Addresses, Network};
use crate::process::{self, Process};
use crate::{boot, cache, host, image, sys};

/// What a cluster consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A whole cluster with one node.
    Full,
    /// An API server without a node: it keeps objects and runs nothing.
    ControlPlane,
}

impl Kind {
    /// The components, in the order in which they start.
    #[must_use]
    pub fn components(self) -> &'static [Component] {
        use Component as C;
        match self {
            Self::Full => &[
                C::Etcd,
                C::Containerd,
                C::KubeApiserver,
                C::KubeControllerManager,
                C::KubeScheduler,
                C::KubeProxy,
                C::Coredns,
                C::Provisioner,
                C::Kubelet,
            ],
            Self::ControlPlane => &[C::Etcd, C::KubeApiserver, C::KubeControllerManager],
        }
    }
}

/// A cluster of a running instance.
#[derive(Clone, Debug)]
pub struct Cluster {
    instance: u8,
    name: String,
    kind: Kind,
    index: u8,
    dir: PathBuf,
}

impl Cluster {
    pub(crate) fn new(instance: u8, name: &str, kind: Kind, index: u8, dir: PathBuf) -> Self {
        Self { instance, name: name.to_owned(), kind, index, dir }
    }

    /// Its name, which is also the name of its node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has a node.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number of the instance that it belongs to.
    #[must_use]
    pub fn instance(&self) -> u8 {
        self.instance
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its addresses.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses::new(self.instance, self.index)
    }

    /// The address of its node: API server (port 6443), NodePorts, DNS.
    #[must_use]
    pub fn node_ip(&self) -> Ipv4Addr {
        self.addresses().node()
    }

    /// The administrator's kubeconfig; it holds everything in itself and works from the host, from
    /// pods of this cluster and from pods of the others.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.conf")
    }

    /// The log of a component.
    #[must_use]
    pub fn log(&self, component: Component) -> PathBuf {
        self.dir.join("log").join(format!("{component}.log"))
    }

    /// The folder of the storage provisioner: volumes, snapshots, keys.
    #[must_use]
    pub fn storage_dir(&self) -> PathBuf {
        self.dir.join("storage")
    }

    /// A client with the administrator's rights, without retries of its own.
    pub async fn client(&self) -> Result<kube::Client> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.proxy_url = None;
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5));
        Ok(kube::Client::try_from(config)?)
    }

    /// Runs `kubectl` and returns what it prints.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        sys::output(self.kubectl_command()?.args(args))
    }

    /// A command `kubectl` for this cluster, without arguments.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = Command::new(cache::kube()?.kubectl);
        command.env("KUBECONFIG", self.kubeconfig());
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Applies manifests in YAML, as `kubectl apply --server-side` does.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        let mut child = self
            .kubectl_command()?
            .args(["apply", "--server-side", "--force-conflicts", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        child.stdin.take().context("kubectl has no input")?.write_all(manifests.as_bytes())?;
        let done = child.wait_with_output()?;
        if !done.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Loads an OCI archive for the pods of this cluster.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        if self.kind != Kind::Full {
            bail!("{} has no node to load an image into", self.name);
        }
        image::load(&self.dir.join("containerd.sock"), archive)
            .with_context(|| format!("cannot load {} into {}", archive.display(), self.name))
    }

    /// The running components.
    #[must_use]
    pub fn running(&self) -> Vec<(String, Process)> {
        process::running(&self.dir)
    }

    /// The memory of everything that the cluster runs, pods included, in bytes, without page cache.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.cgroup().memory()
    }

    pub(crate) fn network(&self) -> Network {
        Network::new(self.instance)
    }

    pub(crate) fn cgroup_name(&self) -> String {
        self.network().namespace(&self.name)
    }

    pub(crate) fn cgroup(&self) -> Cgroup {
        Cgroup::new(&self.cgroup_name())
    }

    // Faults of components.

    fn process(&self, component: Component) -> Result<Process> {
        process::recorded(&self.dir, component.name())
            .filter(Process::alive)
            .with_context(|| format!("{component} of {} does not run", self.name))
    }

    /// Stops a component where it is (SIGSTOP): it keeps its connections and answers nothing.
    pub fn pause(&self, component: Component) -> Result<()> {
        self.process(component)?.send(Signal::STOP);
        Ok(())
    }

    /// Lets a paused component go on.
    pub fn resume(&self, component: Component) -> Result<()> {
        self.process(component)?.send(Signal::CONT);
        Ok(())
    }

    /// Kills a component (SIGKILL); the pods live on.
    pub fn kill(&self, component: Component) -> Result<()> {
        self.process(component)?.kill()
    }

    /// Starts a component that does not run.
    pub fn start(&self, component: Component) -> Result<()> {
        if component == Component::Provisioner {
            return boot::start_provisioner(self);
        }
        let network = self.network().namespace(&self.name);
        let (kube, cni) = (cache::kube()?, host::cni_plugins()?);
        let argv = self.config(&network, &kube.kube, &cni).argv(component)?;
        match component {
            Component::Kubelet => boot::start_kubelet(self, &argv),
            _ => self.spawn(component.name(), &argv, true),
        }
    }

    /// Kills a component if it runs, and starts it.
    pub fn restart(&self, component: Component) -> Result<()> {
        if let Ok(process) = self.process(component) {
            process.kill()?;
        }
        self.start(component)
    }

    pub(crate) fn spawn(&self, name: &str, argv: &[String], inside: bool) -> Result<()> {
        let netns = self.network().namespace(&self.name);
        process::start(&process::Start {
            name,
            argv,
            dir: &self.dir,
            netns: inside.then_some(netns.as_str()),
            cgroups: &self.cgroup().join_files(),
        })
        .map(|_| ())
    }

    pub(crate) fn config<'a>(&'a self, network: &'a str, kube: &'a Path, cni: &'a Path) -> Config<'a> {
        Config {
            dir: &self.dir,
            cluster: &self.name,
            at: self.addresses(),
            cgroup: network,
            network,
            kube,
            cni,
        }
    }

    // Faults of the whole site.

    /// Freezes the whole site, pods included, at one instant.
    pub fn pause_site(&self) -> Result<()> {
        self.cgroup().freeze(true)
    }

    /// Lets a frozen site go on.
    pub fn resume_site(&self) -> Result<()> {
        self.cgroup().freeze(false)
    }

    /// Takes the power: every process of the site, pods included, dies at one instant, its mounts
    /// and its network are gone. What was written to files stays.
    pub fn kill_site(&self) -> Result<()> {
        self.cgroup().kill()?;
        self.network().detach(&self.name)?;
        crate::storage::power_cut(&self.storage_dir())?;
        crate::clean::mounts(&self.dir)?;
        crate::clean::container_files(&self.dir);
        crate::clean::loops(&self.dir)?;
        let run = self.dir.join("run");
        if run.exists() {
            fs::remove_dir_all(&run).with_context(|| format!("cannot empty {}", run.display()))?;
        }
        Ok(())
    }

    /// Gives the power back: the node boots with its old data and starts its pods again. Returns
    /// when the API server answers and the node is Ready.
    pub fn start_site(&self) -> Result<()> {
        let storage = self.storage_dir().exists();
        std::thread::scope(|scope| match scope.spawn(|| boot::start(self, storage)).join() {
            Ok(done) => done,
            Err(_) => bail!("the thread that starts {} died", self.name),
        })
    }
}
