//! Writes for kinds without a type, and writes into another cluster with strict validation.

use super::{Applier, ApplyError, Child, Created, named};
use crate::api::names::MANAGER;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, PostParams, Preconditions};
use kube::core::Request;

impl Applier {
    /// Creates an object whose kind is known at run time only, unless it is there.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn create_dynamic(
        &self,
        object: &DynamicObject,
        resource: &ApiResource,
    ) -> Result<Created, ApplyError> {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, resource);
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let call = api.create(&params, object);
        match self.bound("create", &object.metadata, &resource.kind, call).await {
            Ok(_) => Ok(Created::New),
            Err(error) if error.is_conflict() => Ok(Created::Existed),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object whose kind is known at run time only; gone already is fine.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn delete_dynamic(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        resource: &ApiResource,
    ) -> Result<(), ApplyError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, resource);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::background()
        };
        let call = api.delete(name, &params);
        match self.bound("delete", &named(namespace, name), &resource.kind, call).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Creates the object, or replaces it if it carries a `resourceVersion`, with strict validation:
    /// an API server that does not know a field refuses it instead of dropping it in silence.
    ///
    /// # Errors
    /// [`ApplyError`]; 400 or 422 mean that the other side's definitions are older.
    pub async fn write_strict<K: Child>(&self, object: &K) -> Result<(), ApplyError> {
        let meta = object.meta();
        let (namespace, name) =
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let update = meta.resource_version.is_some();
        let call = async {
            let data = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
            let request = Request::new(K::url_path(&(), Some(&namespace)));
            let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            let request =
                if update { request.replace(&name, &params, data) } else { request.create(&params, data) };
            let mut request = request.map_err(kube::Error::BuildRequest)?;
            // The client library has no parameter for it.
            let uri = format!("{}&fieldValidation=Strict", request.uri());
            *request.uri_mut() = uri.parse().map_err(|e| kube::Error::HttpError(http::Error::from(e)))?;
            self.client.request::<serde_json::Value>(request).await
        };
        let verb = if update { "update" } else { "create" };
        self.bound(verb, meta, K::kind(&()).as_ref(), call).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::api::ReplicaPolicy;
    use kube::client::Body;
    use std::time::Duration;

    #[tokio::test]
    async fn a_write_into_the_embassy_asks_for_strict_validation() {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(vec![]));
        let log = seen.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            log.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
            let answer = http::Response::builder().status(200).body(Body::from(b"{}".to_vec()));
            async move { Ok::<_, std::convert::Infallible>(answer.unwrap()) }
        });
        let applier = Applier::new(kube::Client::new(service, "default"), Duration::from_secs(1));
        let mut policy = ReplicaPolicy::new("p", crate::api::ReplicaPolicySpec::default());
        policy.metadata.namespace = Some("n".into());
        applier.write_strict(&policy).await.unwrap();
        policy.metadata.resource_version = Some("7".into());
        applier.write_strict(&policy).await.unwrap();
        let base = "/apis/dataembassy.io/v1alpha1/namespaces/n/replicapolicies";
        let query = "fieldManager=data-embassy&fieldValidation=Strict";
        assert_eq!(
            *seen.lock().unwrap(),
            [format!("POST {base}?&{query}"), format!("PUT {base}/p?&{query}")]
        );
    }
}
