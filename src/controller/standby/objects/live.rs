//! Reads and writes in the embassy's namespace, as its `embassy-restorer` and not as the operator.

use super::kind::Kind;
use super::plan::{Live, Observed, Step};
use super::transform::{COMPONENT, StandbyObject};
use super::{Finding, Mode, ObjectsError};
use crate::api::names::{
    ANNOTATION_HASH, ANNOTATION_HOME_REPLICAS, LABEL_COMPONENT, LABEL_EMBASSY, LABEL_MANAGED_BY, MANAGER,
    RESTORER,
};
use crate::controller::apply::{Applier, ApplyError};
use crate::controller::standby::build::label_value;
use http::header::{HeaderName, HeaderValue};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use kube::api::{DynamicObject, ListParams};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::Value;
use std::time::Duration;

/// Bound of one call.
pub(super) const CALL: Duration = Duration::from_secs(10);
/// Most objects of a kind that are listed (the manifests hold at most half as many).
const MAX_LIST: u32 = 1024;
/// A status that says why.
const FORBIDDEN: u16 = 403;

/// The same way to the API server, but as ServiceAccount `embassy-restorer` of `namespace`: what home's
/// manifests can do in the embassy is what its admin lets that account do, whatever the operator may.
///
/// # Errors
/// [`ObjectsError::Namespace`] if the namespace is not a name.
pub fn restorer_client(client: &Client, namespace: &str) -> Result<Client, ObjectsError> {
    let user = HeaderValue::from_str(&format!("system:serviceaccount:{namespace}:{RESTORER}"))
        .map_err(|_| ObjectsError::Namespace(namespace.chars().take(63).collect()))?;
    let inner = client.clone();
    let service = tower::service_fn(move |mut request: http::Request<Body>| {
        request.headers_mut().insert(HeaderName::from_static("impersonate-user"), user.clone());
        let inner = inner.clone();
        async move { inner.send(request).await }
    });
    Ok(Client::new(service, namespace))
}

/// One DataEmbassy's standby in one namespace.
pub(super) struct Standby<'a> {
    pub(super) restorer: Applier,
    pub(super) namespace: &'a str,
    /// Value of [`LABEL_EMBASSY`].
    label: String,
}

impl<'a> Standby<'a> {
    pub(super) fn new(client: &Client, namespace: &'a str, data_embassy: &str) -> Result<Self, ObjectsError> {
        let restorer = Applier::new(restorer_client(client, namespace)?, CALL);
        Ok(Self { restorer, namespace, label: label_value(data_embassy) })
    }

    /// Reads all of this standby's objects of `kinds`, and whatever else has a wanted name.
    pub(super) async fn observe(
        &self,
        kinds: &[Kind],
        desired: &[StandbyObject],
    ) -> Result<Observed, ObjectsError> {
        let mut observed = Observed::default();
        for kind in kinds {
            match self.list(*kind).await {
                Ok(objects) => observed.live.extend(objects),
                Err(ReadError::Forbidden(why)) => {
                    observed.unreadable.insert(*kind, why);
                }
                Err(ReadError::Other(error)) => return Err(error),
            }
        }
        for wanted in desired {
            let key = (wanted.kind, wanted.name.clone());
            if observed.live.contains_key(&key) || observed.unreadable.contains_key(&wanted.kind) {
                continue;
            }
            match self.get(wanted.kind, &wanted.name).await {
                Ok(Some(live)) => {
                    observed.live.insert(key, live);
                }
                Ok(None) => {}
                Err(ReadError::Forbidden(why)) => {
                    observed.unreadable.insert(wanted.kind, why);
                }
                Err(ReadError::Other(error)) => return Err(error),
            }
        }
        Ok(observed)
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.restorer.client().clone(), self.namespace, &kind.resource())
    }

    async fn list(&self, kind: Kind) -> Result<Vec<((Kind, String), Live)>, ReadError> {
        let selector = format!(
            "{LABEL_MANAGED_BY}={MANAGER},{LABEL_COMPONENT}={COMPONENT},{LABEL_EMBASSY}={}",
            self.label
        );
        let params = ListParams::default().labels(&selector).limit(MAX_LIST);
        let list = read(kind, self.api(kind).list(&params)).await?;
        Ok(list.items.iter().map(|o| self.live(kind, o)).collect())
    }

    async fn get(&self, kind: Kind, name: &str) -> Result<Option<Live>, ReadError> {
        let found = read(kind, self.api(kind).get_opt(name)).await?;
        Ok(found.map(|o| self.live(kind, &o).1))
    }

    fn live(&self, kind: Kind, object: &DynamicObject) -> ((Kind, String), Live) {
        let meta = &object.metadata;
        let label = |key: &str| meta.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
        let note = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key)).cloned();
        let number = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_i64);
        let small = |n: Option<i64>| n.and_then(|n| i32::try_from(n).ok());
        let current = number("/status/observedGeneration").unwrap_or(0) >= meta.generation.unwrap_or(0);
        let mut ready = small(number("/status/readyReplicas")).unwrap_or(0);
        if kind == Kind::Deployment {
            ready = ready.min(small(number("/status/updatedReplicas")).unwrap_or(0));
        }
        let workload = kind.is_workload();
        let live = Live {
            uid: meta.uid.clone().unwrap_or_default(),
            hash: note(ANNOTATION_HASH),
            ours: label(LABEL_MANAGED_BY) == Some(MANAGER)
                && label(LABEL_COMPONENT) == Some(COMPONENT)
                && label(LABEL_EMBASSY) == Some(self.label.as_str()),
            deleting: meta.deletion_timestamp.is_some(),
            // The API server's default for a workload that does not say.
            replicas: if workload { small(number("/spec/replicas")).unwrap_or(1) } else { 0 },
            ready: if workload && current { ready } else { 0 },
            home_replicas: note(ANNOTATION_HOME_REPLICAS).and_then(|n| n.parse().ok()).unwrap_or(0),
            message: complaint(&object.data),
            selector: selector(&object.data),
        };
        ((kind, meta.name.clone().unwrap_or_default()), live)
    }

    /// Does one step. What only concerns this object becomes a finding; `Err` is an API server that
    /// cannot be reached or does not work, so that the rest is better tried later.
    pub(super) async fn act(&self, step: &Step, mode: Mode) -> Result<Option<Finding>, ObjectsError> {
        match step {
            Step::Delete { kind, name, uid } => {
                let deleted = self.delete(*kind, name, uid).await;
                self.outcome(*kind, name, deleted)
            }
            Step::Apply { kind, name, object, replaces } => {
                let error = match self.apply(*kind, object).await {
                    Ok(()) => return Ok(None),
                    Err(error) => error,
                };
                match replaces {
                    // With no pod there is nothing to lose (claims are retained): make it anew.
                    Some(uid) if mode == Mode::PilotLight && is_immutable(&error) => {
                        let deleted = self.delete(*kind, name, uid).await;
                        let message = "a field that cannot be changed did change: it is made anew";
                        let made_anew = Finding::omitted(*kind, name, "Recreated", message);
                        Ok(self.outcome(*kind, name, deleted)?.or(Some(made_anew)))
                    }
                    _ => self.outcome(*kind, name, Err(error)),
                }
            }
        }
    }

    async fn apply(&self, kind: Kind, object: &Value) -> Result<(), ObjectsError> {
        let object: DynamicObject = serde_json::from_value(object.clone()).map_err(ObjectsError::Object)?;
        self.restorer.apply_dynamic(&object, &kind.resource()).await.map_err(ObjectsError::from).map(drop)
    }

    async fn delete(&self, kind: Kind, name: &str, uid: &str) -> Result<(), ObjectsError> {
        let (applier, ns, uid) = (&self.restorer, self.namespace, Some(uid));
        let deleted = match kind {
            Kind::ConfigMap => applier.delete::<ConfigMap>(ns, name, uid, None).await,
            Kind::Secret => applier.delete::<Secret>(ns, name, uid, None).await,
            Kind::ServiceAccount => applier.delete::<ServiceAccount>(ns, name, uid, None).await,
            Kind::Service => applier.delete::<Service>(ns, name, uid, None).await,
            Kind::StatefulSet => applier.delete::<StatefulSet>(ns, name, uid, None).await,
            Kind::Deployment => applier.delete::<Deployment>(ns, name, uid, None).await,
        };
        Ok(deleted?)
    }

    /// Sets a workload's replicas.
    pub(super) async fn scale(
        &self,
        kind: Kind,
        name: &str,
        replicas: i32,
    ) -> Result<Option<Finding>, ObjectsError> {
        let patch = serde_json::json!({"spec": {"replicas": replicas}});
        let (applier, ns) = (&self.restorer, self.namespace);
        let scaled = match kind {
            Kind::Deployment => applier.merge::<Deployment>(ns, name, &patch).await.map(drop),
            Kind::StatefulSet => applier.merge::<StatefulSet>(ns, name, &patch).await.map(drop),
            Kind::ConfigMap | Kind::Secret | Kind::ServiceAccount | Kind::Service => return Ok(None),
        };
        self.outcome(kind, name, scaled.map_err(ObjectsError::from))
    }

    fn outcome(
        &self,
        kind: Kind,
        name: &str,
        result: Result<(), ObjectsError>,
    ) -> Result<Option<Finding>, ObjectsError> {
        let error = match result {
            Ok(()) => return Ok(None),
            Err(error) => error,
        };
        let ObjectsError::Apply(ApplyError::Api { source, .. }) = &error else { return Err(error) };
        let kube::Error::Api(status) = source.as_ref() else { return Err(error) };
        let why = status.message.as_str();
        match status.code {
            FORBIDDEN => Ok(Some(Finding::forbidden(kind, name, why))),
            404 | 409 => Ok(Some(Finding::omitted(kind, name, "Changed", &format!("tried again: {why}")))),
            // Back-pressure says nothing about the object.
            408 | 429 => Err(error),
            400..500 => Ok(Some(Finding::omitted(kind, name, "Rejected", why))),
            _ => Err(error),
        }
    }
}

enum ReadError {
    Forbidden(String),
    Other(ObjectsError),
}

async fn read<T>(kind: Kind, call: impl Future<Output = kube::Result<T>>) -> Result<T, ReadError> {
    match tokio::time::timeout(CALL, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) if status.code == FORBIDDEN => {
            Err(ReadError::Forbidden(status.message.clone()))
        }
        Ok(Err(source)) => Err(ReadError::Other(ObjectsError::Read { kind, source: Box::new(source) })),
        Err(_) => Err(ReadError::Other(ObjectsError::Timeout)),
    }
}

/// The API server's words for a field that cannot be changed, in 422 for all kinds here.
fn is_immutable(error: &ObjectsError) -> bool {
    let ObjectsError::Apply(ApplyError::Api { source, .. }) = error else { return false };
    let kube::Error::Api(status) = source.as_ref() else { return false };
    let words = ["immutable", "updates to statefulset spec"];
    status.code == 422 && words.iter().any(|w| status.message.contains(w))
}

/// A workload's own word on what keeps it from being ready.
fn complaint(object: &Value) -> Option<String> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let text = |c: &Value, key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let bad = conditions.iter().find(|c| {
        let (kind, status) = (text(c, "type"), text(c, "status"));
        (kind == "ReplicaFailure" && status == "True") || (kind == "Progressing" && status == "False")
    })?;
    Some(text(bad, "message"))
}

fn selector(object: &Value) -> std::collections::BTreeMap<String, String> {
    let labels = object.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
