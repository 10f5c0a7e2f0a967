//! What one turn at home knows: read once, serialisable, without a secret in it, so that an
//! incident in the field can be turned into a test.

use crate::api::embassy::{Arbiter, DataEmbassySpec, DataEmbassyStatus, ServicesSpec, VolumesSpec};
use crate::api::pair::PairRecord;
use crate::api::policy::ReplicaPolicySpec;
use crate::api::report::MoverReport;
use crate::api::request::{RequestState, Verb};
use crate::api::{DataEmbassy, ReplicaPolicy};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Toleration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that a turn decides on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Observation {
    /// When it was read.
    pub now: Timestamp,
    /// The DataEmbassy, read after everything that was made for it.
    pub object: DataEmbassy,
    /// Every ReplicaPolicy of the namespace.
    pub policies: Vec<ReplicaPolicy>,
    /// The pair.
    pub pairing: Pairing,
    /// Every claim of the namespace but our temporary ones.
    pub claims: Vec<Claim>,
    /// Every Deployment and StatefulSet of the namespace.
    pub workloads: Vec<Workload>,
    /// Names and labels of the namespace's Services.
    pub services: Vec<Labelled>,
    /// The namespace's other DataEmbassies.
    pub siblings: Vec<Sibling>,
    /// Requests for this DataEmbassy.
    pub requests: Vec<Request>,
    /// This DataEmbassy's backup Jobs.
    pub jobs: Vec<MoverJob>,
    /// Temporary objects of its runs.
    pub temporaries: Vec<Temporary>,
    /// False if the cluster knows no VolumeSnapshots.
    pub snapshots_supported: bool,
    /// The Secret with the repository password is there.
    pub repository_secret: bool,
    /// Movers of all DataEmbassies that run in this cluster.
    pub running_movers: u32,
    /// The ledger's word.
    pub writ: WritView,
    /// The other side.
    pub embassy: Embassy,
    /// Some reads were refused, because the namespace goes away with the operator's rights in it.
    #[serde(default)]
    pub partial: bool,
}

/// The pair, or why there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Pairing {
    /// The kubeconfig Secret does not exist.
    #[default]
    SecretMissing,
    /// It lacks this key.
    KeyMissing(String),
    /// Its pair record is not one.
    RecordInvalid(String),
    /// Its kubeconfig cannot be used.
    KubeconfigInvalid(String),
    /// All there.
    Ready(Box<PairRecord>),
}

impl Pairing {
    /// The record, if there is a usable one.
    #[must_use]
    pub fn record(&self) -> Option<&PairRecord> {
        match self {
            Self::Ready(record) => Some(record.as_ref()),
            _ => None,
        }
    }
}

/// One PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `Bound`, `Pending` or `Lost`.
    pub phase: String,
    /// Capacity, or the request while unbound.
    pub size: String,
    /// Access modes.
    pub access_modes: Vec<String>,
    /// StorageClass.
    pub storage_class: Option<String>,
    /// `volumeMode: Block`.
    pub block: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// The pod, or the pod template, that mounts it.
    pub consumer: Option<Consumer>,
}

/// Who reads and writes a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Consumer {
    /// Node of the running pod.
    pub node: Option<String>,
    /// User of the container that mounts it.
    pub run_as_user: Option<i64>,
    /// Its group.
    pub run_as_group: Option<i64>,
    /// The pod's fsGroup.
    pub fs_group: Option<i64>,
    /// The pod's other groups.
    pub supplemental_groups: Vec<i64>,
    /// The pod's tolerations, so that a mover may follow it.
    pub tolerations: Vec<Toleration>,
}

/// A Deployment or StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workload {
    /// `Deployment` or `StatefulSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Replicas wanted.
    pub replicas: i32,
    /// Replicas ready.
    pub ready: i32,
}

/// Any object of which only the name counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Another DataEmbassy of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sibling {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Its policy.
    pub policy: String,
    /// Its volumes.
    pub volumes: VolumesSpec,
    /// Its services.
    pub services: Option<ServicesSpec>,
    /// Its kubeconfig Secret: the same one means the same pair.
    pub kubeconfig: String,
    /// A dispatch of it was committed.
    pub copied: bool,
}

/// An EmbassyRequest for this DataEmbassy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// What is asked for.
    pub verb: Verb,
    /// Its token.
    pub token: String,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Where it stands.
    pub state: Option<RequestState>,
    /// What was last said of it.
    pub message: Option<String>,
}

/// One backup Job with what its pod said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoverJob {
    /// Its name, which is the run's.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// It succeeded.
    pub complete: bool,
    /// It failed, for this reason (`BackoffLimitExceeded`, `DeadlineExceeded`).
    pub failed: Option<String>,
    /// It is being deleted.
    pub deleting: bool,
    /// The report in the pod's termination message.
    pub report: Option<MoverReport>,
    /// A termination message that is no report (the end of the log).
    pub last_words: Option<String>,
    /// Why the pod does not start.
    pub waiting: Option<String>,
    /// When the Job was made.
    pub created: Option<Timestamp>,
    /// It has a pod.
    pub pod: bool,
    /// A pod of it runs or ran.
    pub started: bool,
}

impl MoverJob {
    /// It ended, well or badly.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.complete || self.failed.is_some()
    }
}

/// Kinds of temporary objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TemporaryKind {
    /// VolumeSnapshot.
    Snapshot,
    /// Claim made from a snapshot.
    Claim,
    /// Secret with the manifests.
    Secret,
}

/// A temporary object of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Temporary {
    /// Its kind.
    pub kind: TemporaryKind,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The run that it was made for.
    pub run: String,
    /// The claim that it was cut from (snapshots and claims).
    pub source: String,
    /// Snapshots: ready to be used.
    pub ready: bool,
    /// Snapshots: what the driver complains about.
    pub error: Option<String>,
    /// Snapshots: least size of a volume made from it.
    pub restore_size: Option<String>,
    /// It is being deleted.
    pub deleting: bool,
}

/// What the ledger says of this DataEmbassy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WritView {
    /// This process has read the ledger, whatever it held.
    pub read: bool,
    /// The writ's epoch as last seen by this process.
    pub epoch: Option<u64>,
    /// Home may write.
    pub right: Right,
    /// The ledger votes for nobody, and why.
    pub alarm: Option<String>,
    /// Why the last turn at the ledger failed.
    pub last_error: Option<String>,
}

impl WritView {
    /// True if the epoch names the embassy.
    #[must_use]
    pub fn odd(&self) -> bool {
        self.epoch.is_some_and(|epoch| !epoch.is_multiple_of(2))
    }
}

/// Whether home may write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Right {
    /// It may.
    Granted,
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// It may not, and why.
    Denied(String),
}

/// The other side as far as it answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Embassy {
    /// Whether it answered.
    pub reach: Reach,
    /// The mirror.
    pub mirror: Option<Mirror>,
    /// The mirrored policy.
    pub policy: Option<MirroredPolicy>,
    /// Digest of home's client certificate for the vault there.
    pub vault_client: Option<String>,
}

/// Whether the embassy answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// There was no client to ask with.
    #[default]
    NotAsked,
    /// It answered.
    Reached,
    /// It did not, and why.
    Unreachable(String),
    /// It answered and refused.
    Forbidden(String),
}

/// The mirror in the embassy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mirror {
    /// Its version, for the update.
    pub resource_version: String,
    /// UID of the object at home that it was made from.
    pub home_uid: Option<String>,
    /// Annotation with home's volumes.
    pub volumes: Option<String>,
    /// It is being deleted there.
    pub deleting: bool,
    /// Its spec; absent if a newer embassy stored what this operator cannot read.
    pub spec: Option<DataEmbassySpec>,
    /// What the embassy says of it.
    pub status: DataEmbassyStatus,
}

/// The mirrored policy in the embassy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MirroredPolicy {
    /// Its version, for the update.
    pub resource_version: String,
    /// Its spec; absent if a newer embassy stored what this operator cannot read.
    pub spec: Option<ReplicaPolicySpec>,
}

impl Observation {
    /// This DataEmbassy's policy.
    #[must_use]
    pub fn policy(&self) -> Option<&ReplicaPolicySpec> {
        self.policy_named(&self.object.spec.policy_ref.name)
    }

    /// A policy of the namespace.
    #[must_use]
    pub fn policy_named(&self, name: &str) -> Option<&ReplicaPolicySpec> {
        self.policies.iter().find(|p| p.metadata.name.as_deref() == Some(name)).map(|p| &p.spec)
    }

    /// The status as it was read.
    #[must_use]
    pub fn status(&self) -> DataEmbassyStatus {
        self.object.status.clone().unwrap_or_default()
    }

    /// The pair, if this DataEmbassy may act on it: for these two namespaces, and the one that the
    /// status speaks of.
    #[must_use]
    pub fn paired(&self) -> Option<&PairRecord> {
        let old = self.status().pair;
        self.for_us().filter(|p| old.is_none_or(|old| old == p.id))
    }

    fn for_us(&self) -> Option<&PairRecord> {
        let ours = |p: &&PairRecord| {
            p.home_namespace == self.namespace() && p.embassy_namespace == self.object.spec.embassy.namespace
        };
        self.pairing.record().filter(ours)
    }

    /// After pairing anew: drops what the status says of the old pair, whose epochs, dispatches and
    /// runs mean nothing to the new one. Returns the old pair's id. An odd epoch is never dropped:
    /// the old embassy may still serve.
    pub fn forget_old_pair(&mut self) -> Option<String> {
        let id = self.for_us()?.id.clone();
        let status = self.object.status.as_mut()?;
        let old = status.pair.clone().filter(|old| *old != id)?;
        if status.epoch.is_some_and(|epoch| epoch % 2 != 0) {
            return None;
        }
        (status.pair, status.epoch, status.arbiter) = (None, None, None);
        (status.last_dispatch, status.run) = (None, None);
        Some(old)
    }

    /// A dispatch was committed, as far as either site knows: the copy can be read with this one
    /// password and no other.
    #[must_use]
    pub fn copied(&self) -> bool {
        let theirs = self.embassy.mirror.as_ref().map(|m| &m.status);
        self.status().last_dispatch.is_some()
            || theirs.is_some_and(|s| {
                s.received_sequence.is_some_and(|n| n > 0)
                    || s.last_dispatch.as_ref().is_some_and(|d| d.sequence > 0)
            })
    }

    /// A password may be made: none is there, and the embassy has just said that nothing is
    /// encrypted with one that was lost.
    #[must_use]
    pub fn may_make_password(&self) -> bool {
        !self.repository_secret && self.embassy.reach == Reach::Reached && !self.copied()
    }

    /// Home may write the mirror: the writ is home's, as read by this process (a DataEmbassy that
    /// was made anew knows nothing of the one before it), and the arbiter that it will tell is in
    /// force here already.
    #[must_use]
    pub fn may_mirror(&self) -> bool {
        let status = self.status();
        let known = self.writ.epoch.is_some() || self.writ.read;
        let odd = self.writ.odd() || status.epoch.is_some_and(|e| e % 2 != 0);
        let fenced_first =
            self.object.spec.embassy.arbiter == Arbiter::Home || status.arbiter == Some(Arbiter::Embassy);
        known && !odd && fenced_first
    }

    /// Name of the DataEmbassy.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.object.metadata.namespace.as_deref().unwrap_or_default()
    }
}
