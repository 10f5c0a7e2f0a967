//! `ReplicaPolicy`: *how* a copy is kept and when it may take over. Reusable.
//!
//! A field stands here only once its behaviour is there (see CHANGELOG for what follows).

use super::duration::Span;
use k8s_openapi::api::core::v1::{PodSecurityContext, ResourceRequirements};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// How copies are kept: schedule, encryption, standby, health checks, promotion.
#[derive(CustomResource, schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "dataembassy.io",
    version = "v1alpha1",
    kind = "ReplicaPolicy",
    plural = "replicapolicies",
    shortname = "rp",
    category = "embassy",
    namespaced,
    derive = "PartialEq",
    printcolumn(name = "Promotion", type_ = "string", json_path = ".spec.promotion.mode"),
    printcolumn(name = "RPO", type_ = "string", json_path = ".spec.sync.recoveryPointObjective"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicaPolicySpec {
    /// When and how dispatches are made.
    #[serde(default)]
    pub sync: SyncSpec,
    /// Encryption at rest and custody of the keys.
    #[serde(default)]
    pub encryption: EncryptionSpec,
    /// The standby in the embassy.
    #[serde(default)]
    pub standby: StandbySpec,
    /// How the embassy finds out that home's service is sick. At most 16.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub health_checks: Vec<HealthCheck>,
    /// When the embassy takes over.
    #[serde(default)]
    pub promotion: PromotionSpec,
}

/// When and how dispatches are made.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!(has(self.schedule) && has(self.interval))")
        .message("give sync.schedule or sync.interval, not both (neither: only on demand)")
)]
pub struct SyncSpec {
    /// By the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// This long after the cut before, at least 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// `ReplicaFresh` turns False when the cut of the last proven dispatch is older than this.
    #[serde(default = "default_rpo")]
    pub recovery_point_objective: Span,
    /// How the volumes are cut.
    #[serde(default)]
    pub copy_method: CopyMethod,
    /// Spreads starts: each DataEmbassy starts up to this much late, always by the same amount.
    #[serde(default)]
    pub jitter: Span,
    /// Makes no dispatch by schedule or interval while true (on demand still works).
    #[serde(default)]
    pub suspend: bool,
    /// The pods that move the data.
    #[serde(default)]
    pub mover: MoverSpec,
}

fn default_rpo() -> Span {
    Span::secs(600)
}

impl Default for SyncSpec {
    fn default() -> Self {
        Self {
            schedule: None,
            interval: None,
            recovery_point_objective: default_rpo(),
            copy_method: CopyMethod::default(),
            jitter: Span::secs(0),
            suspend: false,
            mover: MoverSpec::default(),
        }
    }
}

/// A cron schedule.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schedule {
    /// Five fields: minute, hour, day of month, month, day of week.
    #[schemars(length(min = 9, max = 100))]
    pub cron: String,
    /// IANA name such as `Europe/Tallinn`; UTC if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub time_zone: Option<String>,
}

/// How the volumes are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum CopyMethod {
    /// VolumeSnapshots, read through temporary volumes: what a crash at that moment would leave.
    #[default]
    Snapshot,
    /// The live volume is read while it is written: only for data that nobody writes meanwhile.
    Direct,
}

/// The pods that move the data.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MoverSpec {
    /// Requests and limits of the mover's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::preserve_object")]
    pub resources: Option<ResourceRequirements>,
    /// Instead of the consuming pod's user, group and fsGroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::preserve_object")]
    pub security_context: Option<PodSecurityContext>,
    /// Runs movers as root with the capabilities that keep any owner and mode
    /// (CHOWN, DAC_OVERRIDE, FOWNER, SETFCAP, MKNOD): needs a namespace that admits it.
    pub privileged: bool,
}

/// Encryption at rest and custody of the keys.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EncryptionSpec {
    /// Whether a StorageClass that is not known to encrypt is refused in the embassy.
    pub at_rest: AtRest,
    /// Who can read the copy.
    pub key_custody: KeyCustody,
}

/// Encryption at rest in the embassy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum AtRest {
    /// Refuse what is not known to encrypt.
    #[default]
    Required,
    /// Say so and go on.
    Preferred,
}

/// Who can read the copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum KeyCustody {
    /// The embassy holds the key: takeover in seconds; no shield against a host that controls nodes.
    #[default]
    Entrusted,
}

/// The standby in the embassy.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StandbySpec {
    /// Pilot light: replicas of each workload before a promotion. Without sentinels only 0 is safe.
    #[schemars(range(min = 0, max = 0))]
    pub replicas: i32,
}

/// One way to find out whether home's service works. Exactly one of `http` and `tcp`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.http) != has(self.tcp)")
        .message("a health check has exactly one of http and tcp")
)]
pub struct HealthCheck {
    /// Name, shown in conditions and metrics.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// GET this URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// Open a TCP connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// Time between two tries.
    #[serde(default = "HealthCheck::default_period")]
    pub period: Span,
    /// A try that takes longer has failed.
    #[serde(default = "HealthCheck::default_timeout")]
    pub timeout: Span,
    /// The check FAILs after this many failed tries in a row.
    #[serde(default = "HealthCheck::default_failures")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: i32,
    /// The check is well again after this many good tries in a row.
    #[serde(default = "HealthCheck::default_successes")]
    #[schemars(range(min = 1, max = 100))]
    pub success_threshold: i32,
}

impl HealthCheck {
    fn default_period() -> Span {
        Span::secs(5)
    }
    fn default_timeout() -> Span {
        Span::secs(2)
    }
    fn default_failures() -> i32 {
        3
    }
    fn default_successes() -> i32 {
        2
    }
}

/// GET an URL.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCheck {
    /// `http://` or `https://`.
    #[schemars(length(max = 2048), regex(pattern = r"^https?://"))]
    pub url: String,
    /// Expected status; 200 if absent.
    #[serde(default = "HttpCheck::default_status")]
    #[schemars(range(min = 100, max = 599))]
    pub expect_status: i32,
}

impl HttpCheck {
    fn default_status() -> i32 {
        200
    }
}

/// Open a TCP connection.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpCheck {
    /// `host:port`.
    #[schemars(length(max = 261), regex(pattern = r":[0-9]{1,5}$"))]
    pub address: String,
}

/// When the embassy takes over.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PromotionSpec {
    /// Who decides.
    pub mode: PromotionMode,
    /// Home is suspect when this many checks FAIL: `All`, `Any` or a number.
    #[schemars(schema_with = "super::schema::fail_when")]
    pub fail_when: FailWhen,
    /// Home must be suspect for this long before anything is done.
    pub stabilization: Span,
    /// Hold the promotion when the newest proven dispatch was cut longer ago than this.
    pub max_data_loss: Span,
    /// Least time between two promotions.
    pub cooldown: Span,
    /// How a site without the writ is stopped.
    pub fence: Fence,
    /// K and F of the safety rule.
    pub fencing: Fencing,
    /// Promote although home's fence is best effort (fence `Scale`).
    pub accept_unproven_fence: bool,
}

impl Default for PromotionSpec {
    fn default() -> Self {
        Self {
            mode: PromotionMode::default(),
            fail_when: FailWhen::default(),
            stabilization: Span::secs(30),
            max_data_loss: Span::secs(3600),
            cooldown: Span::secs(600),
            fence: Fence::default(),
            fencing: Fencing::default(),
            accept_unproven_fence: false,
        }
    }
}

/// Who decides on a promotion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum PromotionMode {
    /// The operator, when every gate is open.
    Automatic,
    /// A person, by an EmbassyRequest; the gates still hold.
    #[default]
    Manual,
    /// Nobody: this is a copy only.
    None,
}

/// How many checks must FAIL before home is suspect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailWhen {
    /// Every check.
    #[default]
    All,
    /// Any check.
    Any,
    /// At least this many.
    AtLeast(u32),
}

/// How a site without the writ is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Fence {
    /// The operator deletes the pods without grace and scales to zero: best effort, good while
    /// the operator and its API server live.
    #[default]
    Scale,
}

/// K and F of the safety rule (design section 5).
#[derive(schemars::JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fencing {
    /// K: worst pause of an application.
    pub max_pause: Span,
    /// F: worst time from the decision to fence until the last write is impossible.
    pub max_fence_time: Span,
}

impl Default for Fencing {
    fn default() -> Self {
        Self { max_pause: Span::secs(5), max_fence_time: Span::secs(5) }
    }
}
