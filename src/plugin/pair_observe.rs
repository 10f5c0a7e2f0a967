//! What `pair` reads of both sites before it decides anything.

use super::kube::{Cluster, Object, SiteError};
use super::pair_plan::{EmbassyFound, HomeFound, Wanted};
use crate::api::DataEmbassy;
use crate::api::names::{LABEL_CLUSTER_ROLE, PAIR_CONFIG_MAP, PAIR_KEY};
use ::kube::ResourceExt as _;
use ::kube::api::ListParams;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::StorageClass;

/// Names shown of what occupies a namespace; the rest is only counted.
const SHOWN: usize = 5;

/// Reads home.
pub async fn home(cluster: &Cluster, wanted: &Wanted) -> Result<HomeFound, SiteError> {
    let ns = wanted.home_namespace.as_str();
    Ok(HomeFound {
        cluster: uid(cluster).await,
        api: mirrors(cluster, ns).await?.is_some(),
        is_embassy: cluster.get(&cluster.namespaced::<ConfigMap>(ns), PAIR_CONFIG_MAP).await?.is_some(),
        secret: cluster.get(&cluster.namespaced::<Secret>(ns), &wanted.secret).await?,
        roles: roles(cluster, "home").await?,
    })
}

/// Reads the embassy.
pub async fn embassy(cluster: &Cluster, wanted: &Wanted) -> Result<EmbassyFound, SiteError> {
    let ns = wanted.embassy_namespace.as_str();
    let record = cluster.get(&cluster.namespaced::<ConfigMap>(ns), PAIR_CONFIG_MAP).await?;
    let mirrors = mirrors(cluster, ns).await?;
    let mut occupied = mirrors.clone().unwrap_or_default();
    occupied.extend(names::<Deployment>(cluster, ns).await?);
    occupied.extend(names::<StatefulSet>(cluster, ns).await?);
    occupied.extend(names::<DaemonSet>(cluster, ns).await?);
    occupied.extend(names::<PersistentVolumeClaim>(cluster, ns).await?);
    occupied.extend(names::<Pod>(cluster, ns).await?);
    let more = occupied.len().saturating_sub(SHOWN);
    if more > 0 {
        occupied.truncate(SHOWN);
        occupied.push(format!("and {more} more"));
    }
    let storage_class = match &wanted.vault.storage_class_name {
        Some(name) => Some(cluster.get(&cluster.all::<StorageClass>(), name).await?.is_some()),
        None => None,
    };
    Ok(EmbassyFound {
        cluster: uid(cluster).await,
        api: mirrors.is_some(),
        // A ConfigMap by this name without its key is still somebody's: it never counts as none.
        pair: record.map(|map| map.data.and_then(|mut data| data.remove(PAIR_KEY)).unwrap_or_default()),
        occupied,
        roles: roles(cluster, "embassy").await?,
        storage_class,
    })
}

/// Tells two contexts of one cluster apart from two clusters; not every admin may read it.
async fn uid(cluster: &Cluster) -> Option<String> {
    cluster.get(&cluster.all::<Namespace>(), "kube-system").await.ok().flatten()?.uid()
}

/// The DataEmbassies of a namespace; `None` if the cluster does not know the kind.
async fn mirrors(cluster: &Cluster, ns: &str) -> Result<Option<Vec<String>>, SiteError> {
    match names::<DataEmbassy>(cluster, ns).await {
        Ok(names) => Ok(Some(names)),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn names<K>(cluster: &Cluster, ns: &str) -> Result<Vec<String>, SiteError>
where
    K: Object + ::kube::Resource<Scope = NamespaceResourceScope>,
{
    let found = cluster.list(&cluster.namespaced::<K>(ns), &ListParams::default()).await?;
    Ok(found.iter().map(|object| format!("{} {}", K::kind(&()), object.name_any())).collect())
}

async fn roles(cluster: &Cluster, site: &str) -> Result<Vec<ClusterRole>, SiteError> {
    let labelled = ListParams::default().labels(&format!("{LABEL_CLUSTER_ROLE}={site}"));
    cluster.list(&cluster.all::<ClusterRole>(), &labelled).await
}
