//! `DataEmbassy`: *what* is copied *where*. Applied at home, mirrored into the embassy.

use super::ledger::Site;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A set of volumes and services with a living copy in a foreign cluster.
#[derive(CustomResource, schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "dataembassy.io",
    version = "v1alpha1",
    kind = "DataEmbassy",
    plural = "dataembassies",
    shortname = "de",
    category = "embassy",
    namespaced,
    status = "DataEmbassyStatus",
    derive = "PartialEq",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Active", type_ = "string", json_path = ".status.activeSite"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.epoch"),
    printcolumn(name = "Cut", type_ = "date", json_path = ".status.lastDispatch.cutTime"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataEmbassySpec {
    /// The ReplicaPolicy in the same namespace.
    pub policy_ref: ObjectName,
    /// Where the copy lives.
    pub embassy: EmbassySpec,
    /// Which PersistentVolumeClaims are copied.
    pub volumes: VolumesSpec,
    /// Which workloads and Services get a standby. Absent: the data alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<ServicesSpec>,
    /// This DataEmbassy's part of the vault.
    #[serde(default)]
    pub vault: VaultSpec,
    /// Nothing automatic happens until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Set on the mirror by home's operator when the DataEmbassy was deleted at home: the standby
    /// stops, vault and last proven dispatch stay until `kubectl embassy retire` at the embassy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
}

/// Reference to an object of a known kind in the same namespace.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectName {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where the copy lives.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmbassySpec {
    /// Secret with home's kubeconfig to the embassy, made by `kubectl embassy pair`.
    pub kubeconfig_secret_ref: ObjectName,
    /// Namespace in the embassy; must be the pair's.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// StorageClass of the standby volumes (it must be known to encrypt, see `atRest`).
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: String,
    /// Who keeps the ledger.
    #[serde(default)]
    pub arbiter: Arbiter,
}

/// Who keeps the ledger that decides which site may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Arbiter {
    /// Home writes until a human overrides it at the embassy.
    #[default]
    Home,
    /// The embassy's API server: takeover is automatic, and losing the embassy stops home.
    Embassy,
}

/// Which PersistentVolumeClaims are copied.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.selector) != (has(self.names) && size(self.names) > 0)")
        .message("give volumes.selector or volumes.names, and not both")
)]
pub struct VolumesSpec {
    /// By label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::label_selector")]
    pub selector: Option<LabelSelector>,
    /// By name, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub names: Vec<String>,
}

/// Which workloads and Services get a standby.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicesSpec {
    /// Deployments, StatefulSets, Services, ConfigMaps, Secrets and ServiceAccounts with these labels.
    #[schemars(schema_with = "super::schema::label_selector")]
    pub selector: LabelSelector,
    /// Image references are rewritten by prefix, first match, for the embassy's registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub images: Vec<ImageMapping>,
}

/// One rule of image mapping.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageMapping {
    /// Prefix at home.
    #[schemars(length(min = 1, max = 512))]
    pub from: String,
    /// What replaces it in the embassy.
    #[schemars(length(min = 1, max = 512))]
    pub to: String,
}

/// This DataEmbassy's part of the vault.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VaultSpec {
    /// Most bytes that its repository may take, a Kubernetes quantity. Absent: the volume's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"))]
    pub quota: Option<String>,
}

/// Nothing automatic meanwhile.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hold {
    /// End of the hold; absent: until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub until: Option<Time>,
    /// Why, for the people who find it.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
}

/// What is known; written by the operator of the site where the object stands.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataEmbassyStatus {
    /// The generation that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The part that this site plays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Site>,
    /// A summary for people, never the truth: see `conditions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The site that the writ names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_site: Option<Site>,
    /// The highest epoch that this site has seen (its high-water mark).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Home: the arbiter in force. It follows `spec.embassy.arbiter` to Embassy at once, to Home only
    /// when the embassy has been told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arbiter: Option<Arbiter>,
    /// The pair's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    /// Embassy: the newest proven dispatch. Home: the last one that the vault has committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_dispatch: Option<DispatchStatus>,
    /// Embassy: the newest dispatch in the vault, proven or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_sequence: Option<i64>,
    /// The mover run under way or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunStatus>,
    /// Each volume.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeStatus>,
    /// Each object of the service: at home what is sent, in the embassy the standby.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceStatus>,
    /// Where home reaches the vault (written by the embassy, read by home).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultStatus>,
    /// State of each health check (embassy).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub health_checks: Vec<HealthStatus>,
    /// Embassy: since when home has been suspect without a break.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub suspect_since: Option<Time>,
    /// The promotion under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promotion: Option<PromotionProgress>,
    /// The last promotion that came to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_promotion: Option<PromotionRecord>,
    /// Home: fencing measured last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_fence: Option<FenceRecord>,
    /// Conditions; `Ready`, `Reconciling` and `Stalled` follow kstatus.
    #[schemars(schema_with = "super::schema::conditions")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Summary of where a DataEmbassy stands (design section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[allow(missing_docs, reason = "the names are design section 4's, explained there as a diagram")]
pub enum Phase {
    Pending,
    Provisioning,
    Seeding,
    Protected,
    Degraded,
    HomeSuspect,
    AwaitingWrit,
    PromotionHeld,
    Promoting,
    Promoted,
    Fenced,
    Retired,
    SplitBrain,
}

/// One dispatch, as far as this site knows it.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DispatchStatus {
    /// Position in the chain.
    pub sequence: i64,
    /// Hash of its header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_hash: Option<String>,
    /// Moment of the cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub cut_time: Option<Time>,
    /// When this site learnt that it is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub received_time: Option<Time>,
    /// When it was restored and compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub proven_time: Option<Time>,
    /// Who compared it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven_by: Option<Site>,
    /// Bytes that it added to the vault, or that its restore wrote.
    pub bytes_added: i64,
    /// Entries in its volumes.
    pub files: i64,
    /// Seconds that the mover ran.
    pub duration_seconds: f64,
}

/// One run of a mover.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunStatus {
    /// What asked for it: `schedule/<time>`, `request/<name>`, `dispatch/<sequence>`.
    pub trigger: String,
    /// The Job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Tries so far for this trigger, from 1.
    pub attempt: i32,
    /// The cut of this try.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub cut_time: Option<Time>,
    /// When it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub completion_time: Option<Time>,
    /// `Running`, `Succeeded` or `Failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<RunState>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What failed, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// After a failure: not before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub next_attempt: Option<Time>,
}

/// State of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub enum RunState {
    Running,
    Succeeded,
    Failed,
}

/// One volume.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeStatus {
    /// PersistentVolumeClaim at home.
    pub name: String,
    /// The claim at this site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Its phase (`Bound`, `Pending`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

/// One object of the service.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Ready replicas of wanted ones, for workloads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// Why it could not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Where the vault is reached.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VaultStatus {
    /// `host:port`.
    pub address: String,
    /// PEM of the pair's CA.
    pub ca_bundle: String,
}

/// One health check.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthStatus {
    /// Its name.
    pub name: String,
    /// `Healthy`, `Failed` or `Unknown`.
    pub state: String,
    /// What the last try said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Steps of a promotion (design section 4).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[allow(missing_docs, reason = "the names are design section 4's, explained there")]
pub enum PromotionStep {
    Claim,
    Confirm,
    FinishRestore,
    Prove,
    RestoreObjects,
    Start,
    Probe,
    SwitchTraffic,
}

/// A promotion under way.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PromotionProgress {
    /// The step that is being done.
    pub step: PromotionStep,
    /// Why it was begun.
    pub reason: String,
    /// When home was judged lost, or a human asked.
    #[schemars(schema_with = "super::schema::time")]
    pub started_at: Time,
    /// When the writ was taken: until then home could write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub claimed_at: Option<Time>,
    /// The dispatch that is promoted.
    pub sequence: i64,
    /// True if a human overrode a gate.
    #[serde(default, rename = "override")]
    pub overridden: bool,
}

/// A promotion that came to its end.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PromotionRecord {
    /// Why it was begun.
    pub reason: String,
    /// When home was judged lost, or a human asked.
    #[schemars(schema_with = "super::schema::time")]
    pub started_at: Time,
    /// When the standby answered.
    #[schemars(schema_with = "super::schema::time")]
    pub serving_at: Time,
    /// Epoch that it wrote under.
    pub epoch: i64,
    /// The dispatch that was promoted.
    pub sequence: i64,
    /// `servingAt - startedAt` in seconds.
    pub recovery_seconds: f64,
    /// From the dispatch's cut to the moment the writ was taken, in seconds: an upper bound, for home
    /// could write until then.
    pub data_loss_seconds: f64,
    /// True if a human overrode a gate: the guarantee was suspended.
    #[serde(default, rename = "override")]
    pub overridden: bool,
}

/// Fencing as it was measured at home.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FenceRecord {
    /// When the permit lapsed.
    #[schemars(schema_with = "super::schema::time")]
    pub decided_at: Time,
    /// When the last pod was gone; absent while one is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub completed_at: Option<Time>,
    /// F as measured: `completedAt - decidedAt` in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Pods that were found running without a permit after a restart of node or operator.
    #[serde(default)]
    pub found_running: i32,
}
