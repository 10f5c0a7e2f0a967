//! Makes what a turn's plan says: certificates, the vault, volumes, the mover's identity, the Job.
//! The only file of this part, with `retire.rs`, that writes.

use super::build::certs::{self, Pem};
use super::build::restore::{self, RestoreInput};
use super::build::{BuildError, covers, meta, vault, volumes};
use super::chain::Received;
use super::observe::Observed;
use super::plan::{Issue, JobStep, certificates, growth, job_step, parts};
use super::validate::Verdict;
use crate::api::DataEmbassy;
use crate::api::names::{
    CA_CERT, CA_SECRET, EMBASSY_CLIENT_SECRET, HOME_CLIENT_SECRET, SERVER_SECRET, TLS_CERT, TLS_KEY, VAULT,
};
use crate::api::pair::PairRecord;
use crate::controller::Context;
use crate::controller::apply::{Applier, ApplyError, Child};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::ResourceExt as _;
use std::collections::BTreeMap;

/// Why something could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The standby's workloads could not be removed.
    #[error("cannot remove the standby's workloads")]
    Objects(#[from] super::objects::ObjectsError),
}

impl From<certs::CertError> for MakeError {
    fn from(error: certs::CertError) -> Self {
        Self::Build(BuildError::Cert(error))
    }
}

/// What one turn makes things for.
pub struct Site<'a> {
    /// The operator.
    pub context: &'a Context,
    /// The mirror.
    pub object: &'a DataEmbassy,
    /// Its pair.
    pub pair: &'a PairRecord,
    /// What was seen.
    pub observed: &'a Observed,
    /// What was judged.
    pub verdict: &'a Verdict,
}

impl Site<'_> {
    fn applier(&self) -> &Applier {
        &self.context.applier
    }

    /// The pair's part: authority, certificates, configuration, Service and, where the storage
    /// may be used, volume and Deployment of the vault. All DataEmbassies of the pair agree on it.
    ///
    /// # Errors
    /// The first thing that could not be made; the next turn goes on.
    pub async fn pair_wide(&self, now: jiff::Timestamp) -> Result<(), MakeError> {
        let observed = &self.observed.vault;
        let config = vault::config(self.pair, &self.observed.siblings);
        self.keep(observed.config.as_ref(), &config).await?;
        self.keep(observed.service.as_ref(), &vault::service(self.pair)).await?;
        self.certificates(now).await?;
        if !self.verdict.storage {
            return Ok(());
        }
        if !self.observed.claims.contains_key(VAULT) {
            self.applier().create(&vault::claim(self.pair, &self.verdict.vault_class)).await?;
        }
        self.grow(&[(VAULT.to_owned(), self.pair.vault.size.clone())]).await?;
        let deployment = vault::deployment(self.pair, &self.context.settings.image);
        self.keep(observed.deployment.as_ref(), &deployment).await
    }

    /// Applies an object that differs from what was seen; a no-op would still be a request.
    async fn keep<K: Child>(&self, seen: Option<&K>, wanted: &K) -> Result<(), MakeError> {
        if seen.is_some_and(|seen| covers(seen, wanted)) {
            return Ok(());
        }
        self.applier().apply(wanted).await?;
        Ok(())
    }

    async fn certificates(&self, now: jiff::Timestamp) -> Result<(), MakeError> {
        for issue in certificates(self.pair, self.observed, now) {
            let ca = self.observed.material.authority.as_ref();
            match (issue, ca) {
                (Issue::Authority, _) => {
                    let pem = certs::authority(&self.pair.id, now)?;
                    // Created once: of two replicas one loses, and reads the other's next turn.
                    self.applier().create(&self.secret(CA_SECRET, &pem, &pem.cert)).await?;
                }
                (_, None) => {}
                (Issue::Server(names), Some(ca)) => {
                    let pem = certs::server(ca, &names, now)?;
                    self.store(SERVER_SECRET, self.observed.certificates.server.is_some(), &pem, ca).await?;
                }
                (Issue::Home, Some(ca)) => {
                    let pem = certs::client(ca, "home", now)?;
                    self.store(HOME_CLIENT_SECRET, self.observed.certificates.home.is_some(), &pem, ca)
                        .await?;
                }
                (Issue::Embassy, Some(ca)) => {
                    let pem = certs::client(ca, "embassy", now)?;
                    let there = self.observed.certificates.embassy.is_some();
                    self.store(EMBASSY_CLIENT_SECRET, there, &pem, ca).await?;
                }
            }
        }
        Ok(())
    }

    fn secret(&self, name: &str, pem: &Pem, ca: &str) -> Secret {
        let value = |text: &str| ByteString(text.as_bytes().to_vec());
        Secret {
            metadata: meta(&self.pair.embassy_namespace, name, vault::COMPONENT, None),
            type_: Some("Opaque".to_owned()),
            data: Some(BTreeMap::from([
                (TLS_CERT.to_owned(), value(&pem.cert)),
                (TLS_KEY.to_owned(), value(&pem.key)),
                (CA_CERT.to_owned(), value(ca)),
            ])),
            ..Secret::default()
        }
    }

    /// All three values in one request: certificate and key must never be of two makings.
    async fn store(&self, name: &str, there: bool, pem: &Pem, ca: &Pem) -> Result<(), MakeError> {
        if !there {
            self.applier().create(&self.secret(name, pem, &ca.cert)).await?;
            return Ok(());
        }
        let data = [(TLS_CERT, &pem.cert), (TLS_KEY, &pem.key), (CA_CERT, &ca.cert)];
        let data: BTreeMap<&str, String> =
            data.into_iter().map(|(key, text)| (key, STANDARD.encode(text))).collect();
        let patch = serde_json::json!({ "data": data });
        self.applier().merge::<Secret>(&self.pair.embassy_namespace, name, &patch).await?;
        Ok(())
    }

    /// The standby's volumes that are there.
    #[must_use]
    pub fn claims(&self) -> Vec<&PersistentVolumeClaim> {
        let volumes = self.verdict.volumes.iter().flat_map(|v| &v.volumes);
        volumes.filter_map(|volume| self.observed.claims.get(&volume.name)).collect()
    }

    /// The standby's volumes and the mover's identity.
    ///
    /// # Errors
    /// The first thing that could not be made; the next turn goes on.
    pub async fn standby(&self) -> Result<(), MakeError> {
        let namespace = &self.pair.embassy_namespace;
        let name = self.object.name_any();
        let class = &self.object.spec.embassy.storage_class_name;
        let wanted = self.verdict.volumes.iter().flat_map(|v| &v.volumes);
        let mut sizes = Vec::new();
        for volume in wanted {
            if !self.observed.claims.contains_key(&volume.name) {
                self.applier().create(&volumes::claim(namespace, &name, class, volume)).await?;
            }
            sizes.push((volume.name.clone(), volume.size.clone()));
        }
        self.grow(&sizes).await?;
        let identity = restore::identity(self.object, namespace);
        let seen = &self.observed.restore;
        if !seen.account {
            self.applier().create(&identity.account).await?;
        }
        if !seen.secret {
            self.applier().create(&identity.secret).await?;
        }
        self.keep(seen.role.as_ref(), &identity.role).await?;
        self.keep(seen.binding.as_ref(), &identity.binding).await
    }

    async fn grow(&self, sizes: &[(String, String)]) -> Result<(), MakeError> {
        for (name, size, allowed) in growth(self.observed, sizes) {
            if !allowed {
                tracing::warn!(claim = name, size, "the StorageClass does not let this claim grow");
                continue;
            }
            let patch = volumes::growth(&size);
            self.applier()
                .merge::<PersistentVolumeClaim>(&self.pair.embassy_namespace, &name, &patch)
                .await?;
        }
        Ok(())
    }

    /// The Job that restores dispatch `sequence`.
    ///
    /// # Errors
    /// [`BuildError`] while home's volumes or the vault's address are not known.
    pub fn restore_job_for(
        &self,
        sequence: u64,
        attempt: i32,
        verified: &[Received],
    ) -> Result<Job, BuildError> {
        let home = self.verdict.volumes.as_ref().ok_or(BuildError::NoVolumes)?;
        let volumes = parts(verified, sequence, home).map_err(BuildError::Volumes)?;
        let vault = vault::inside(self.observed.vault.service.as_ref()).ok_or(BuildError::NoService)?;
        let policy = self.observed.policy.clone().unwrap_or_default();
        let input = RestoreInput {
            object: self.object,
            pair: self.pair,
            volumes: &volumes,
            mover: &policy.sync.mover,
            image: &self.context.settings.image,
            vault: &vault,
        };
        restore::job(&input, sequence, attempt)
    }

    /// Deletes the Job of a mover that was given up, once the status says that it was.
    ///
    /// # Errors
    /// What could not be deleted; the next turn tries again.
    pub async fn drop_job(&self, uid: &str) -> Result<(), MakeError> {
        let name = restore::job_name(&self.object.name_any());
        self.applier().delete::<Job>(&self.pair.embassy_namespace, &name, Some(uid), None).await?;
        Ok(())
    }

    /// Makes the Job of a run that the status has written down, see [`super::runs`]. Only ever
    /// called after that status was accepted by the API server.
    ///
    /// # Errors
    /// What could not be made; the next turn tries again.
    pub async fn ensure_job(
        &self,
        sequence: u64,
        attempt: i32,
        verified: &[Received],
    ) -> Result<(), MakeError> {
        let step = job_step(self.observed.restore.job.as_ref(), sequence, attempt);
        let job = match step {
            JobStep::Wait => return Ok(()),
            JobStep::Create | JobStep::Replace(_) => self.restore_job_for(sequence, attempt, verified)?,
        };
        if let JobStep::Replace(uid) = step {
            let name = job.name_any();
            self.applier().delete::<Job>(&self.pair.embassy_namespace, &name, Some(&uid), None).await?;
        }
        // When the name is taken, another replica was faster: the next turn sees its Job.
        self.applier().create(&job).await?;
        Ok(())
    }
}
