//! `embassy crds`: the custom resource definitions as YAML, from the types.

use crate::api::{DataEmbassy, EmbassyRequest, ReplicaPolicy};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use std::path::Path;

/// Why the definitions cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CrdsError {
    /// A definition cannot be serialised.
    #[error("cannot write a definition as YAML")]
    Yaml(#[source] serde_yaml::Error),
    /// The folder cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Which file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// File name and YAML of every definition. Helm keeps them on uninstall (`resource-policy: keep`),
/// because deleting a definition deletes every object of its kind.
///
/// # Errors
/// [`CrdsError::Yaml`].
pub fn definitions() -> Result<Vec<(String, String)>, CrdsError> {
    let all = [DataEmbassy::crd(), ReplicaPolicy::crd(), EmbassyRequest::crd()];
    all.into_iter().map(one).collect()
}

fn one(mut crd: CustomResourceDefinition) -> Result<(String, String), CrdsError> {
    let annotations = crd.metadata.annotations.get_or_insert_default();
    annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    let yaml = serde_yaml::to_string(&crd).map_err(CrdsError::Yaml)?;
    Ok((format!("{}.yaml", crd.spec.names.plural), yaml))
}

/// Writes one file a definition into `directory`.
///
/// # Errors
/// [`CrdsError`].
pub fn write(directory: &Path) -> Result<(), CrdsError> {
    let cannot = |source| CrdsError::Write { path: directory.display().to_string(), source };
    std::fs::create_dir_all(directory).map_err(cannot)?;
    for (name, yaml) in definitions()? {
        let path = directory.join(name);
        std::fs::write(&path, yaml)
            .map_err(|source| CrdsError::Write { path: path.display().to_string(), source })?;
    }
    Ok(())
}
