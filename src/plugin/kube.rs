//! Clusters as the plugin sees them: every call is bounded in time and its error says at which
//! site it failed, for people who work with two clusters at once.

use ::kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use ::kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use ::kube::{Api, Client, Config, Resource};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, path::PathBuf, time::Duration};

/// Bound of every single call.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Objects per page of a list, and pages at most: the plugin's memory is bounded.
const PAGE: u32 = 500;
const MAX_PAGES: usize = 40;
/// Field manager of what the plugin writes.
pub const PLUGIN: &str = "kubectl-embassy";

/// Why a cluster could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The kubeconfig or context cannot be used.
    #[error("cannot use the kubeconfig for {site}")]
    Kubeconfig {
        /// Which site.
        site: String,
        /// Why.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// No client can be made of it.
    #[error("cannot make a client for {site}")]
    Client {
        /// Which site.
        site: String,
        /// Why.
        #[source]
        source: Box<::kube::Error>,
    },
    /// The API server refused or could not be reached.
    #[error("cannot {verb} {what} at {site}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On what.
        what: String,
        /// Which site.
        site: String,
        /// The answer.
        #[source]
        source: Box<::kube::Error>,
    },
    /// No answer in time.
    #[error("no answer from {site} within {} s to {verb} {what}", TIMEOUT.as_secs())]
    Timeout {
        /// What was tried.
        verb: &'static str,
        /// On what.
        what: String,
        /// Which site.
        site: String,
    },
    /// More objects than the plugin takes.
    #[error("more than {} {what} at {site}: narrow it with --namespace", MAX_PAGES * PAGE as usize)]
    TooMany {
        /// What was listed.
        what: String,
        /// Which site.
        site: String,
    },
}

impl SiteError {
    /// HTTP status of the API server's refusal.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                ::kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Where a cluster is found.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Kubeconfig file; else `$KUBECONFIG` or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Context; else the file's current one.
    pub context: Option<String>,
}

/// The site of commands that concern one cluster.
#[derive(Clone, Debug, clap::Args)]
pub struct SiteArgs {
    /// Kubeconfig file (default: $KUBECONFIG or ~/.kube/config).
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Context in it (default: its current context).
    #[arg(long)]
    pub context: Option<String>,
    /// Namespace (default: the context's).
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
}

impl SiteArgs {
    /// Where the cluster is found.
    #[must_use]
    pub fn target(&self) -> Target {
        Target { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() }
    }
}

/// What [`Cluster::create`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was not there and is now.
    New,
    /// It was there already and was left as it is.
    Existed,
}

/// One cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    site: String,
    /// The context's namespace.
    pub default_namespace: String,
    /// The kubeconfig that it was found by.
    pub kubeconfig: Kubeconfig,
    /// The context in it.
    pub context: String,
}

impl Cluster {
    /// A client for `target`; `role` (`home`, `the embassy`, `the cluster`) goes into every message.
    ///
    /// # Errors
    /// [`SiteError`]; nothing is asked of the cluster yet.
    pub async fn connect(target: &Target, role: &str) -> Result<Self, SiteError> {
        let wanted =
            target.context.clone().or_else(|| Some(target.kubeconfig.as_ref()?.display().to_string()));
        let site = wanted.map_or_else(|| role.to_owned(), |wanted| format!("{role} ({wanted})"));
        let failed = |source| SiteError::Kubeconfig { site: site.clone(), source: Box::new(source) };
        let kubeconfig = match &target.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        }
        .map_err(failed)?;
        Self::from_kubeconfig(kubeconfig, target.context.clone(), site).await
    }

    /// The same from a kubeconfig in memory.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn from_kubeconfig(
        kubeconfig: Kubeconfig,
        context: Option<String>,
        site: String,
    ) -> Result<Self, SiteError> {
        let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig.clone(), &options)
            .await
            .map_err(|source| SiteError::Kubeconfig { site: site.clone(), source: Box::new(source) })?;
        config.connect_timeout = Some(Duration::from_secs(10));
        // The client's own retries last for minutes; a user at a terminal wants the error now.
        config.default_retry = false;
        let default_namespace = config.default_namespace.clone();
        let client = Client::try_from(config)
            .map_err(|source| SiteError::Client { site: site.clone(), source: Box::new(source) })?;
        let context = context.or_else(|| kubeconfig.current_context.clone()).unwrap_or_default();
        Ok(Self { client, site, default_namespace, kubeconfig, context })
    }

    /// How messages call this cluster.
    #[must_use]
    pub fn site(&self) -> &str {
        &self.site
    }

    /// Objects of one namespace.
    #[must_use]
    pub fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Objects of the whole cluster.
    #[must_use]
    pub fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// The object, or `None` if there is none.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn get<K: Object>(&self, api: &Api<K>, name: &str) -> Result<Option<K>, SiteError> {
        self.bound("read", &what::<K>(name), api.get_opt(name)).await
    }

    /// All objects that match.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn list<K: Object>(&self, api: &Api<K>, params: &ListParams) -> Result<Vec<K>, SiteError> {
        let (mut params, mut found) = (params.clone().limit(PAGE), Vec::new());
        for _ in 0..MAX_PAGES {
            let page = self.bound("list", &K::plural(&()), api.list(&params)).await?;
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(found),
            }
        }
        Err(SiteError::TooMany { what: K::plural(&()).into_owned(), site: self.site.clone() })
    }

    /// Creates the object unless it is there.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn create<K: Object>(&self, api: &Api<K>, object: &K) -> Result<Made, SiteError> {
        match self.post(api, object).await {
            Ok(_) => Ok(Made::New),
            Err(error) if error.code() == Some(409) => Ok(Made::Existed),
            Err(error) => Err(error),
        }
    }

    /// Creates the object; it is an error if it is there.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn post<K: Object>(&self, api: &Api<K>, object: &K) -> Result<K, SiteError> {
        let params = PostParams { field_manager: Some(PLUGIN.to_owned()), ..PostParams::default() };
        self.bound("create", &what::<K>(name_of(object.meta())), api.create(&params, object)).await
    }

    /// Server-side apply with force: only for objects that the plugin alone owns.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn apply<K: Object>(&self, api: &Api<K>, object: &K) -> Result<K, SiteError> {
        let params = PatchParams::apply(PLUGIN).force();
        let name = name_of(object.meta());
        self.bound("apply", &what::<K>(name), api.patch(name, &params, &Patch::Apply(object))).await
    }

    /// JSON merge patch.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn merge<K: Object>(
        &self,
        api: &Api<K>,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<K, SiteError> {
        let params = PatchParams { field_manager: Some(PLUGIN.to_owned()), ..PatchParams::default() };
        self.bound("change", &what::<K>(name), api.patch(name, &params, &Patch::Merge(patch))).await
    }

    /// Deletes the object; `false` if it was gone already.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn delete<K: Object>(&self, api: &Api<K>, name: &str) -> Result<bool, SiteError> {
        match self.bound("delete", &what::<K>(name), api.delete(name, &DeleteParams::background())).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Who the API server takes us for; falls back on the local user, for records only.
    pub async fn whoami(&self) -> String {
        let review = self
            .bound(
                "ask who we are by",
                "SelfSubjectReview",
                self.all::<SelfSubjectReview>().create(&PostParams::default(), &SelfSubjectReview::default()),
            )
            .await;
        review
            .ok()
            .and_then(|review| review.status?.user_info?.username)
            .or_else(|| std::env::var("USER").ok())
            .unwrap_or_else(|| "an unnamed user".to_owned())
    }

    async fn bound<T>(
        &self,
        verb: &'static str,
        what: &str,
        call: impl Future<Output = ::kube::Result<T>>,
    ) -> Result<T, SiteError> {
        let (what, site) = (what.to_owned(), self.site.clone());
        match tokio::time::timeout(TIMEOUT, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(SiteError::Api { verb, what, site, source: Box::new(source) }),
            Err(_) => Err(SiteError::Timeout { verb, what, site }),
        }
    }
}

/// A typed Kubernetes object.
pub trait Object: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned {}
impl<K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned> Object for K {}

fn name_of(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().or(meta.generate_name.as_deref()).unwrap_or_default()
}

fn what<K: Object>(name: &str) -> String {
    format!("{} {name}", K::kind(&()))
}
