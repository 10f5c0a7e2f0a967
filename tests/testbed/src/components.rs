//! The programs of a cluster: which there are, their configuration files and arguments.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::net::Addresses;
use crate::sys;

/// A program of a cluster.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// The store of the API server.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// The controllers.
    KubeControllerManager,
    /// The scheduler.
    KubeScheduler,
    /// The container runtime.
    Containerd,
    /// The node's agent.
    Kubelet,
    /// Services.
    KubeProxy,
    /// Names.
    Coredns,
    /// The storage provisioner of the testbed.
    Provisioner,
}

impl Component {
    /// The name of its log, its record and its argument.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Coredns => "coredns",
            Self::Provisioner => "provisioner",
        }
    }
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a cluster's configuration is made of.
pub(crate) struct Config<'a> {
    pub dir: &'a Path,
    pub cluster: &'a str,
    pub at: Addresses,
    pub cgroup: &'a str,
    pub network: &'a str,
    pub kube: &'a Path,
    pub cni: &'a Path,
}

impl Config<'_> {
    /// Writes the configuration files of all components.
    pub fn write(&self) -> Result<()> {
        let put = |name: &str, text: String| sys::write_atomic(&self.dir.join(name), text);
        put("containerd.toml", self.containerd())?;
        put("cni/10-bridge.conflist", self.bridge().to_string())?;
        put("kubelet.json", self.kubelet().to_string())?;
        put("Corefile", self.corefile())?;
        put("resolv.conf", format!("nameserver {}\n", self.at.node()))?;
        if !self.dir.join("hosts").exists() {
            put("hosts", String::new())?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Program and arguments of a component.
    pub fn argv(&self, component: Component) -> Result<Vec<String>> {
        let args = match component {
            Component::Etcd => self.etcd(),
            Component::KubeApiserver => self.apiserver(),
            Component::KubeControllerManager => self.controller_manager(),
            Component::KubeScheduler => vec![
                format!("--kubeconfig={}", self.path("kube-scheduler.conf")),
                "--leader-elect=false".to_owned(),
            ],
            Component::Kubelet => self.kubelet_args(),
            Component::KubeProxy => self.proxy(),
            Component::Coredns => vec![format!("-conf={}", self.path("Corefile"))],
            Component::Containerd => {
                return Ok(vec![
                    "containerd".to_owned(),
                    format!("--config={}", self.path("containerd.toml")),
                ]);
            }
            Component::Provisioner => anyhow::bail!("the provisioner is not part of Kubernetes"),
        };
        let kube = self.kube.to_str().context("the cache's path is not UTF-8")?;
        Ok([kube.to_owned(), component.name().to_owned()].into_iter().chain(args).collect())
    }

    fn etcd(&self) -> Vec<String> {
        vec![
            format!("--data-dir={}", self.path("etcd")),
            "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
            "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ]
    }

    fn apiserver(&self) -> Vec<String> {
        let pki = |flag: &str, file: &str| format!("--{flag}={}", self.path(&format!("pki/{file}")));
        vec![
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--service-cluster-ip-range={}", self.at.service_network()),
            format!("--advertise-address={}", self.at.node()),
            pki("client-ca-file", "ca.crt"),
            pki("tls-cert-file", "apiserver.crt"),
            pki("tls-private-key-file", "apiserver.key"),
            pki("kubelet-client-certificate", "admin.crt"),
            pki("kubelet-client-key", "admin.key"),
            pki("service-account-key-file", "sa.pub"),
            pki("service-account-signing-key-file", "sa.key"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--allow-privileged".to_owned(),
        ]
    }

    fn controller_manager(&self) -> Vec<String> {
        let pki = |flag: &str, file: &str| format!("--{flag}={}", self.path(&format!("pki/{file}")));
        vec![
            format!("--kubeconfig={}", self.path("kube-controller-manager.conf")),
            pki("service-account-private-key-file", "sa.key"),
            pki("root-ca-file", "ca.crt"),
            pki("cluster-signing-cert-file", "ca.crt"),
            pki("cluster-signing-key-file", "ca.key"),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            "--allocate-node-cidrs".to_owned(),
            format!("--cluster-cidr={}", self.at.pod_network()),
            "--node-cidr-mask-size=24".to_owned(),
            format!("--flex-volume-plugin-dir={}", self.path("volume-plugins")),
        ]
    }

    fn kubelet_args(&self) -> Vec<String> {
        let cluster = self.cluster;
        vec![
            format!("--kubeconfig={}", self.path("kubelet.conf")),
            format!("--config={}", self.path("kubelet.json")),
            format!("--root-dir={}", self.path("kubelet")),
            format!("--cert-dir={}", self.path("kubelet/pki")),
            format!("--hostname-override={cluster}"),
            format!("--node-ip={}", self.at.node()),
            format!(
                "--node-labels=topology.kubernetes.io/zone={cluster}-a,topology.kubernetes.io/region={cluster}"
            ),
        ]
    }

    fn proxy(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.path("kube-proxy.conf")),
            format!("--cluster-cidr={}", self.at.pod_network()),
            format!("--hostname-override={}", self.cluster),
            "--proxy-mode=iptables".to_owned(),
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0".to_owned(),
        ]
    }

    fn kubelet(&self) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "x509": {"clientCAFile": self.path("pki/ca.crt")},
                "webhook": {"enabled": true},
                "anonymous": {"enabled": false},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": self.path("pki/kubelet.crt"),
            "tlsPrivateKeyFile": self.path("pki/kubelet.key"),
            "containerRuntimeEndpoint": format!("unix://{}", self.path("containerd.sock")),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.cgroup),
            "failCgroupV1": false,
            "failSwapOn": false,
            // A changed ConfigMap reaches its pods in seconds, not in a minute and a half.
            "syncFrequency": "5s",
            // Tests kill containers on purpose and should not wait for minutes after it.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
            "clusterDNS": [self.at.node()],
            "clusterDomain": "cluster.local",
            "resolvConf": self.path("resolv.conf"),
            "podLogsDir": self.path("log/pods"),
            "volumePluginDir": self.path("volume-plugins"),
            // Disks of test machines are full of other things: the testbed evicts for none of them.
            "evictionHard": {
                "memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                "imagefs.available": "0%", "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "serializeImagePulls": false,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
        })
    }

    fn containerd(&self) -> String {
        format!(
            r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_hugetlb_controller = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{cni}"
  conf_dir = "{conf}"
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  Root = "{state}/runc"
"#,
            root = self.path("containerd"),
            state = self.path("run"),
            socket = self.path("containerd.sock"),
            pause = crate::image::PAUSE,
            cni = self.cni.display(),
            conf = self.path("cni"),
        )
    }

    fn bridge(&self) -> Value {
        json!({
            "cniVersion": "0.4.0",
            "name": self.network,
            "plugins": [
                {
                    "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": self.at.pod_network()}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": self.path("run/ipam"),
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        })
    }

    /// The cluster's own names, names of the `hosts` file, and a clear "no such name" for all else:
    /// nothing is asked outside. (In one block the last answer would come before the others.)
    fn corefile(&self) -> String {
        format!(
            r#"cluster.local in-addr.arpa ip6.arpa {{
    bind {ip}
    errors
    ready {ip}:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig} {cluster}
        pods insecure
        ttl 5
    }}
    cache 5
}}
. {{
    bind {ip}
    errors
    hosts {hosts} {{
        ttl 1
        reload 500ms
        fallthrough
    }}
    forward . {ip}:5353
}}
.:5353 {{
    bind {ip}
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"#,
            ip = self.at.node(),
            hosts = self.path("hosts"),
            kubeconfig = self.path("admin.conf"),
            cluster = self.cluster,
        )
    }
}
