//! Collects the manifests that go with the volumes, once a run.

use super::act::ActError;
use super::build::manifests::{References, references, sendable_secret, strip};
use super::observation::Observation;
use super::select;
use crate::api::names::{LABEL_MANAGED_BY, MANAGER};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;
use std::collections::BTreeSet;

/// ConfigMap that every namespace has and the cluster writes.
const CLUSTER_CONFIG_MAP: &str = "kube-root-ca.crt";

/// Every object of the service as it is sent, sorted by kind and name.
///
/// # Errors
/// [`ActError::Read`].
pub async fn manifests(seen: &Observation, client: &Client) -> Result<Vec<Value>, ActError> {
    let reader = Reader { client, namespace: seen.namespace() };
    let claims: BTreeSet<String> =
        select::claims(&seen.object.spec.volumes, &seen.claims).into_iter().map(|c| c.name.clone()).collect();
    let mut objects = reader.all::<PersistentVolumeClaim>("PersistentVolumeClaims").await?;
    objects.retain(|(name, _, _)| claims.contains(name));
    let mut found: Vec<Value> = objects.into_iter().map(|(_, _, value)| value).collect();
    if let Some(services) = &seen.object.spec.services {
        let meant = |o: &Item| select::selects(&services.selector, &o.1);
        let mut needs = Needs::default();
        for list in
            [reader.all::<Deployment>("Deployments").await?, reader.all::<StatefulSet>("StatefulSets").await?]
        {
            for (_, _, value) in list.into_iter().filter(|o| meant(o)) {
                needs.add(references(&value));
                found.push(value);
            }
        }
        let plain = reader.all::<Service>("Services").await?;
        found.extend(plain.into_iter().filter(|o| meant(o)).map(|o| o.2));
        let accounts = reader.all::<ServiceAccount>("ServiceAccounts").await?;
        for (name, labels, value) in accounts {
            // `default` is in every namespace already.
            if name != "default"
                && (needs.accounts.contains(&name) || select::selects(&services.selector, &labels))
            {
                found.push(value);
            }
        }
        let maps = reader.all::<ConfigMap>("ConfigMaps").await?.into_iter();
        found.extend(
            maps.filter(|o| o.0 != CLUSTER_CONFIG_MAP && (needs.maps.contains(&o.0) || meant(o)))
                .map(|o| o.2),
        );
        found.extend(
            reader
                .secrets()
                .await?
                .into_iter()
                .filter(|o| needs.secrets.contains(&o.0) || meant(o))
                .map(|o| o.2),
        );
    }
    let mut stripped: Vec<Value> = found.into_iter().map(strip).collect();
    stripped.sort_by_cached_key(|o| {
        let text = |p: &str| o.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/kind"), text("/metadata/name"))
    });
    Ok(stripped)
}

type Item = (String, std::collections::BTreeMap<String, String>, Value);

#[derive(Default)]
struct Needs {
    maps: BTreeSet<String>,
    secrets: BTreeSet<String>,
    accounts: BTreeSet<String>,
}

impl Needs {
    fn add(&mut self, references: References) {
        self.maps.extend(references.config_maps);
        self.secrets.extend(references.secrets);
        self.accounts.extend(references.service_accounts);
    }
}

struct Reader<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Reader<'_> {
    /// All objects of a kind but those that we made, with the kind that a list leaves out.
    async fn all<K: crate::controller::apply::Child>(
        &self,
        what: &'static str,
    ) -> Result<Vec<Item>, ActError> {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        let list = api.list(&ListParams::default()).await;
        let list = list.map_err(|e| ActError::Read { what, source: Box::new(e) })?;
        let ours = |o: &K| o.labels().get(LABEL_MANAGED_BY).is_some_and(|v| v == MANAGER);
        Ok(list.items.iter().filter(|o| !ours(o)).map(item).collect())
    }

    async fn secrets(&self) -> Result<Vec<Item>, ActError> {
        let mut all = self.all::<Secret>("Secrets").await?;
        all.retain(|(_, _, value)| sendable_secret(value.get("type").and_then(Value::as_str)));
        Ok(all)
    }
}

fn item<K: crate::controller::apply::Child>(object: &K) -> Item {
    let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), K::api_version(&()).into_owned().into());
        map.insert("kind".to_owned(), K::kind(&()).into_owned().into());
    }
    (object.name_any(), object.labels().clone(), value)
}
