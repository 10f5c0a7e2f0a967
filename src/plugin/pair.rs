//! `kubectl embassy pair`: reads both sites once, decides ([`super::pair_plan`]), then writes in an
//! order that any interruption can be resumed from by the same command: home's Secret with id and
//! key, the embassy's objects, the proof that home's identity works, the pair record, home's
//! kubeconfig.

use super::kube::{Cluster, Made, Object, SiteError};
use super::kubeconfig::{self, KubeconfigError, Server};
pub use super::pair_args::PairArgs;
use super::pair_plan::{self, Plan, Refused, Wanted};
use super::rbac::{self, EmbassyObjects, POD_SECURITY};
use super::{pair_observe, say};
use crate::api::names::{HOME_TOKEN_SECRET, PAIR_KEY, ledger};
use crate::api::pair::PairRecord;
use crate::api::policy::Fencing;
use crate::domain::writ::{SettingsError, check_settings};
use ::kube::ResourceExt as _;
use ::kube::config::Kubeconfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use rand::{RngCore as _, rngs::OsRng};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// How long the cluster may take to fill a token or to apply new rights.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(500);

/// Why no pair was made.
#[derive(Debug, thiserror::Error)]
pub enum PairCommandError {
    /// A site refused or did not answer.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The settings would allow two writers, or fence a healthy home.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The two cannot be paired.
    #[error(transparent)]
    Refused(#[from] Box<Refused>),
    /// Home's kubeconfig cannot be made.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// The record cannot be serialised.
    #[error("the pair record cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    /// The cluster did not fill the token.
    #[error(
        "the embassy's cluster did not fill Secret {HOME_TOKEN_SECRET} within {} s: is its token controller running? \
         Run the same command again",
        PATIENCE.as_secs()
    )]
    NoToken,
    /// The new identity cannot do its work.
    #[error(
        "home's new identity cannot read the ledger at the embassy (nothing is active yet; mend it and run the same \
         command again)"
    )]
    Identity(#[source] Box<SiteError>),
    /// The record came into being meanwhile.
    #[error(
        "another `pair` wrote a record into namespace {0} meanwhile: look at it with kubectl embassy status"
    )]
    Raced(String),
}

/// Makes the pair.
///
/// # Errors
/// [`PairCommandError`]; the same command resumes what was begun.
pub async fn run(args: &PairArgs) -> Result<(), PairCommandError> {
    let wanted = args.wanted();
    check_settings(&wanted.lease, &Fencing::default())?;
    let home = Cluster::connect(&args.home(), "home").await?;
    let embassy = Cluster::connect(&args.embassy(), "the embassy").await?;
    let server = server(args, &embassy)?;
    let (at_home, at_embassy) =
        tokio::try_join!(pair_observe::home(&home, &wanted), pair_observe::embassy(&embassy, &wanted))?;
    let plan = pair_plan::decide(&wanted, &at_home, &at_embassy, fresh()).map_err(Box::new)?;
    for note in &plan.notes {
        say(&format!("note: {note}"));
    }
    say(&format!("{} pair {}", if plan.resumed { "resuming" } else { "making" }, plan.record.id));

    let json = serde_json::to_string_pretty(&plan.record).map_err(PairCommandError::Json)?;
    begin_home(&home, &plan, &wanted.secret, &json, at_home.secret.is_some()).await?;
    let objects = rbac::embassy_objects(&plan.record, &json, &plan.embassy_grant);
    ensure_namespace(&embassy, &plan.record.embassy_namespace, args).await?;
    // Boxed: it holds every object of the pair.
    let record = Box::pin(write_embassy(&embassy, objects)).await?;
    let token = token(&embassy, &plan.record.embassy_namespace).await?;
    let server = Server { ca_data: server.ca_data.clone().or(token.ca_data), ..server };
    verify(&embassy, &plan.record, &server, &token.text).await?;
    commit(&embassy, &plan, &record).await?;
    let kubeconfig = kubeconfig::render(&server, &plan.record.embassy_namespace, &token.text)?;
    write_home_secret(&home, &plan, &wanted.secret, &json, Some(&kubeconfig)).await?;
    say(&next_steps(&plan, &wanted, &server));
    Ok(())
}

/// A random id and key, from the system's generator.
fn fresh() -> (String, SigningKey) {
    let mut id = [0_u8; 8];
    OsRng.fill_bytes(&mut id);
    (hex::encode(id), SigningKey::generate(&mut OsRng))
}

/// How home reaches the embassy's API server, as far as the admin's kubeconfig says it.
fn server(args: &PairArgs, embassy: &Cluster) -> Result<Server, KubeconfigError> {
    let entry = kubeconfig::cluster(&embassy.kubeconfig, &embassy.context)?;
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map(|pem| STANDARD.encode(pem))
            .map_err(|source| KubeconfigError::Ca { path: path.display().to_string(), source })
    };
    let ca_data =
        match (&args.embassy_ca_file, &entry.certificate_authority_data, &entry.certificate_authority) {
            (Some(file), _, _) => Some(read(file)?),
            (None, Some(data), _) => Some(data.clone()),
            (None, None, Some(file)) => Some(read(std::path::Path::new(file))?),
            (None, None, None) => None,
        };
    kubeconfig::server(entry, args.embassy_server.as_deref(), ca_data)
}

/// Home's part that must be there before the embassy changes: id and key, kept for a resumption.
async fn begin_home(
    home: &Cluster,
    plan: &Plan,
    secret: &str,
    json: &str,
    begun: bool,
) -> Result<(), PairCommandError> {
    let ns = plan.record.home_namespace.as_str();
    let made = home.create(&home.all::<Namespace>(), &rbac::namespace(ns, None)).await?;
    report(home, "Namespace", ns, made);
    if !begun {
        write_home_secret(home, plan, secret, json, None).await?;
    }
    bind(home, &rbac::home_binding(ns, &plan.home_grant)).await?;
    Ok(())
}

async fn write_home_secret(
    home: &Cluster,
    plan: &Plan,
    name: &str,
    json: &str,
    kubeconfig: Option<&str>,
) -> Result<(), PairCommandError> {
    let seed = hex::encode(plan.key.to_bytes());
    let secret = rbac::home_secret(&plan.record, name, json, &seed, kubeconfig);
    home.apply(&home.namespaced(&plan.record.home_namespace), &secret).await?;
    let what = if kubeconfig.is_some() { "with home's kubeconfig" } else { "with id and key" };
    say(&format!("  Secret {name} at home {what}"));
    Ok(())
}

/// The embassy's namespace, under PodSecurity. A level that an admin chose before stays.
async fn ensure_namespace(embassy: &Cluster, ns: &str, args: &PairArgs) -> Result<(), PairCommandError> {
    let level = args.pod_security.as_deref().unwrap_or("restricted");
    let api = embassy.all::<Namespace>();
    let made = embassy.create(&api, &rbac::namespace(ns, Some(level))).await?;
    report(embassy, "Namespace", ns, made);
    if made == Made::Existed {
        let found = embassy.get(&api, ns).await?.and_then(|found| found.labels().get(POD_SECURITY).cloned());
        if found.is_none() || (args.pod_security.is_some() && found.as_deref() != Some(level)) {
            let patch = json!({ "metadata": { "labels": { POD_SECURITY: level } } });
            embassy.merge(&api, ns, &patch).await?;
            say(&format!("  Namespace {ns} at the embassy now enforces PodSecurity {level}"));
        }
    }
    Ok(())
}

/// All of the embassy's objects but the pair record, which is handed back: it is written last.
async fn write_embassy(embassy: &Cluster, objects: EmbassyObjects) -> Result<ConfigMap, PairCommandError> {
    let EmbassyObjects {
        accounts,
        home_role,
        ledger_role,
        restorer_role,
        vault_role,
        bindings,
        secrets,
        token,
        ledger,
        pair,
    } = objects;
    for account in &accounts {
        create(embassy, account).await?;
    }
    for role in [&home_role, &vault_role] {
        let ns = role.namespace().unwrap_or_default();
        embassy.apply(&embassy.namespaced(&ns), role).await?;
        say(&format!("  Role {} at the embassy", role.name_any()));
    }
    for role in [&ledger_role, &restorer_role] {
        create(embassy, role).await?;
    }
    for secret in secrets.iter().chain([&token]) {
        create(embassy, secret).await?;
    }
    create(embassy, &ledger).await?;
    for binding in &bindings {
        bind(embassy, binding).await?;
    }
    Ok(pair)
}

async fn create<K>(cluster: &Cluster, object: &K) -> Result<Made, SiteError>
where
    K: Object + ::kube::Resource<Scope = NamespaceResourceScope>,
{
    let ns = object.namespace().unwrap_or_default();
    let made = cluster.create(&cluster.namespaced(&ns), object).await?;
    report(cluster, &K::kind(&()), &object.name_any(), made);
    Ok(made)
}

/// Writes a RoleBinding; its role cannot be changed, so one to another role is made anew (the
/// chart was installed under another name).
async fn bind(cluster: &Cluster, binding: &RoleBinding) -> Result<(), SiteError> {
    let api = cluster.namespaced::<RoleBinding>(&binding.namespace().unwrap_or_default());
    let name = binding.name_any();
    let found = cluster.get(&api, &name).await?;
    if found.is_some_and(|found| found.role_ref != binding.role_ref) {
        cluster.delete(&api, &name).await?;
    }
    cluster.apply(&api, binding).await?;
    say(&format!("  RoleBinding {name} at {}", cluster.site()));
    Ok(())
}

fn report(cluster: &Cluster, kind: &str, name: &str, made: Made) {
    let how = if made == Made::New { "" } else { " (was there)" };
    say(&format!("  {kind} {name} at {}{how}", cluster.site()));
}

/// What the cluster put into the token's Secret.
struct Token {
    text: String,
    ca_data: Option<String>,
}

async fn token(embassy: &Cluster, ns: &str) -> Result<Token, PairCommandError> {
    let api = embassy.namespaced::<Secret>(ns);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let data = embassy.get(&api, HOME_TOKEN_SECRET).await?.and_then(|s| s.data).unwrap_or_default();
        let text = data.get("token").and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            return Ok(Token { text, ca_data: data.get("ca.crt").map(|ca| STANDARD.encode(&ca.0)) });
        }
        if Instant::now() >= deadline {
            return Err(PairCommandError::NoToken);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Reads the ledger as home will, with its token, its CA and its rights. The address is the
/// admin's: home's own may not be reachable from this machine.
async fn verify(
    embassy: &Cluster,
    record: &PairRecord,
    server: &Server,
    token: &str,
) -> Result<(), PairCommandError> {
    let entry = kubeconfig::cluster(&embassy.kubeconfig, &embassy.context)?;
    // A CA given for another address says nothing about this one.
    let mut trial = kubeconfig::server(entry, None, server.ca_data.clone())?;
    if trial.url != server.url {
        trial.ca_data = entry.certificate_authority_data.clone().or(trial.ca_data);
    }
    let text = kubeconfig::render(&trial, &record.embassy_namespace, token)?;
    let site = "the embassy as home".to_owned();
    let mut config = Kubeconfig::from_yaml(&text)
        .map_err(|source| SiteError::Kubeconfig { site: site.clone(), source: Box::new(source) })?;
    for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.proxy_url = entry.proxy_url.clone();
    }
    let identity = Cluster::from_kubeconfig(config, None, site).await?;
    let api = identity.namespaced::<Lease>(&record.embassy_namespace);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match identity.get(&api, &ledger(&record.id)).await {
            Ok(_) => return Ok(()),
            // New rights and tokens take a moment to reach every API server.
            Err(error) if matches!(error.code(), Some(401 | 403)) && Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            Err(error) => return Err(PairCommandError::Identity(Box::new(error))),
        }
    }
}

/// The pair record: from here on the namespace is an embassy and home's mirrors are taken.
async fn commit(embassy: &Cluster, plan: &Plan, record: &ConfigMap) -> Result<(), PairCommandError> {
    let ns = plan.record.embassy_namespace.as_str();
    let api = embassy.namespaced::<ConfigMap>(ns);
    if create(embassy, record).await? == Made::New {
        return Ok(());
    }
    let found = embassy.get(&api, &record.name_any()).await?.and_then(|map| map.data?.remove(PAIR_KEY));
    let id = found.and_then(|json| PairRecord::parse(json.as_bytes()).ok()).map(|found| found.id);
    if id.as_deref() == Some(plan.record.id.as_str()) {
        Ok(())
    } else {
        Err(PairCommandError::Raced(ns.to_owned()))
    }
}

fn next_steps(plan: &Plan, wanted: &Wanted, server: &Server) -> String {
    let record = &plan.record;
    let mut text = format!(
        "pair {} is made: home {} -> embassy {} at {}\n\
         Next, in namespace {} at home: a ReplicaPolicy, and a DataEmbassy with\n  \
         spec.embassy.kubeconfigSecretRef.name: {}\n  spec.embassy.namespace: {}\n\
         Then: kubectl embassy status -n {}",
        record.id,
        record.home_namespace,
        record.embassy_namespace,
        server.url,
        record.home_namespace,
        wanted.secret,
        record.embassy_namespace,
        record.home_namespace,
    );
    if record.vault.storage_class_name.is_none() {
        text.push_str(
            "\nThe vault takes the DataEmbassy's embassy.storageClassName: with atRest Required it must be known to encrypt.",
        );
    }
    text
}
