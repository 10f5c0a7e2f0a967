//! `EmbassyRequest`: one change of course, asked for at the site where it acts, kept as a record.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A request that changes the course. It is never mirrored, so nobody forges one with home's kubeconfig.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "dataembassy.io",
    version = "v1alpha1",
    kind = "EmbassyRequest",
    plural = "embassyrequests",
    shortname = "er",
    category = "embassy",
    namespaced,
    status = "EmbassyRequestStatus",
    derive = "PartialEq",
    printcolumn(name = "Verb", type_ = "string", json_path = ".spec.verb"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a request is a record: make a new one instead of changing it"))]
pub struct EmbassyRequestSpec {
    /// What is asked for.
    pub verb: Verb,
    /// Name of the DataEmbassy in this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub target: String,
    /// Random; two requests with the same token are the same request.
    #[schemars(length(min = 8, max = 64))]
    pub token: String,
    /// Who asks and why, for the record.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Verb {
    /// At home: make a dispatch now.
    #[default]
    Sync,
    /// At the embassy: promote as soon as every gate is open.
    Promote,
    /// At the embassy: promote although a gate is closed. Suspends the guarantee against two writers.
    Override,
    /// At the embassy, for a DataEmbassy retired at home: delete standby and copy for good.
    Retire,
}

/// What became of it.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EmbassyRequestStatus {
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<RequestState>,
    /// Why, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the operator first saw it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub accepted_at: Option<Time>,
    /// When it came to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub completed_at: Option<Time>,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum RequestState {
    /// Being done.
    Accepted,
    /// Done.
    Completed,
    /// Not possible; the message says why.
    Refused,
}
