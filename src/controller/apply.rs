//! The only writer of child objects. Everything else decides; this file acts.

mod more;

use crate::api::names::MANAGER;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, time::Duration};

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused or did not answer.
    #[error("cannot {verb} {kind} {namespace}/{name}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The API server's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("no answer within {seconds} s to {verb} {kind} {namespace}/{name}")]
    Timeout {
        /// What was tried.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The bound that was hit.
        seconds: u64,
    },
}

impl ApplyError {
    /// True if the object was changed by someone else meanwhile: observe again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// HTTP status of the API server's refusal.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }
}

/// What [`Applier::create`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was not there and is now.
    New,
    /// It was there already and was left as it is.
    Existed,
}

/// Writes to one cluster, each call bounded in time.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    timeout: Duration,
}

/// A typed, namespaced Kubernetes object.
pub trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}
impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

impl Applier {
    /// `timeout` bounds every single call.
    #[must_use]
    pub fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    /// The client, for reads.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Server-side apply with force: only for children that we alone own.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn apply<K: Child>(&self, object: &K) -> Result<K, ApplyError> {
        let (api, name) = self.api(object.meta());
        let params = PatchParams::apply(MANAGER).force();
        self.bound(
            "apply",
            object.meta(),
            K::kind(&()).as_ref(),
            api.patch(&name, &params, &Patch::Apply(object)),
        )
        .await
    }

    /// The same for an object whose kind is known at run time only.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn apply_dynamic(
        &self,
        object: &DynamicObject,
        resource: &kube::api::ApiResource,
    ) -> Result<DynamicObject, ApplyError> {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, resource);
        let name = object.name_any();
        let params = PatchParams::apply(MANAGER).force();
        self.bound(
            "apply",
            &object.metadata,
            &resource.kind,
            api.patch(&name, &params, &Patch::Apply(object)),
        )
        .await
    }

    /// JSON merge patch, for objects that others own too (scale, annotations, finalizers).
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn merge<K: Child>(
        &self,
        namespace: &str,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<K, ApplyError> {
        let meta = named(namespace, name);
        let (api, name) = self.api::<K>(&meta);
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.bound("patch", &meta, K::kind(&()).as_ref(), api.patch(&name, &params, &Patch::Merge(patch)))
            .await
    }

    /// Creates the object unless it is there: for what must never be overwritten (keys, CAs, Jobs).
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn create<K: Child>(&self, object: &K) -> Result<Created, ApplyError> {
        let (api, _) = self.api(object.meta());
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match self.bound("create", object.meta(), K::kind(&()).as_ref(), api.create(&params, object)).await {
            Ok(_) => Ok(Created::New),
            Err(error) if error.is_conflict() => Ok(Created::Existed),
            Err(error) => Err(error),
        }
    }

    /// Replaces the object; its `resourceVersion` decides whether it still may.
    ///
    /// # Errors
    /// [`ApplyError`]; a conflict means: observe again.
    pub async fn replace<K: Child>(&self, object: &K) -> Result<K, ApplyError> {
        let (api, name) = self.api(object.meta());
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        self.bound("update", object.meta(), K::kind(&()).as_ref(), api.replace(&name, &params, object)).await
    }

    /// Replaces the status; its `resourceVersion` decides whether it still may.
    ///
    /// # Errors
    /// [`ApplyError`]; a conflict means: observe again.
    pub async fn replace_status<K: Child>(&self, object: &K) -> Result<K, ApplyError> {
        let (api, name) = self.api(object.meta());
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        self.bound(
            "update the status of",
            object.meta(),
            K::kind(&()).as_ref(),
            api.replace_status(&name, &params, object),
        )
        .await
    }

    /// Deletes the object; gone already is fine. `uid` guards against deleting a namesake,
    /// `grace` overrides the object's grace period (0 kills at once).
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn delete<K: Child>(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        grace: Option<u32>,
    ) -> Result<(), ApplyError> {
        let meta = named(namespace, name);
        let (api, name) = self.api::<K>(&meta);
        let params = DeleteParams {
            grace_period_seconds: grace,
            preconditions: uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::background()
        };
        match self.bound("delete", &meta, K::kind(&()).as_ref(), api.delete(&name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn api<K: Child>(&self, meta: &ObjectMeta) -> (Api<K>, String) {
        let namespace = meta.namespace.clone().unwrap_or_default();
        (Api::namespaced(self.client.clone(), &namespace), meta.name.clone().unwrap_or_default())
    }

    async fn bound<T>(
        &self,
        verb: &'static str,
        meta: &ObjectMeta,
        kind: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ApplyError> {
        let (kind, namespace) = (kind.to_owned(), meta.namespace.clone().unwrap_or_default());
        let name = meta.name.clone().unwrap_or_default();
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(ApplyError::Api { verb, kind, namespace, name, source: Box::new(source) }),
            Err(_) => {
                Err(ApplyError::Timeout { verb, kind, namespace, name, seconds: self.timeout.as_secs() })
            }
        }
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}
