//! `embassy operator`: one Controller for DataEmbassies; which part it plays is decided by the
//! pair record in the object's namespace, at every turn.

use super::apply::Applier;
use super::{Context, Settings, home, standby};
use crate::admin::{AdminState, serve};
use crate::api::names::{LABEL_MANAGED_BY, MANAGER, PAIR_CONFIG_MAP, PAIR_KEY};
use crate::api::pair::{PairError, PairRecord};
use crate::api::{DataEmbassy, EmbassyRequest, ReplicaPolicy};
use crate::lease::LedgerHub;
use crate::metrics::{EmbassyLabels, Metrics};
use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Bound of one call to this operator's own API server.
const OWN_CALL: Duration = Duration::from_secs(10);
/// DataEmbassies that are reconciled at once (0 would mean without bound).
const CONCURRENCY: u16 = 16;

/// Why the operator ends or a turn fails.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No way to the API server.
    #[error("cannot make a client for the API server (is this running in a cluster?)")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The health endpoint broke.
    #[error(transparent)]
    Admin(#[from] crate::admin::AdminError),
    /// The namespace's pair record cannot be read; nothing is done on a guess.
    #[error("cannot tell which part to play in this namespace")]
    Role(#[source] Box<kube::Error>),
    /// The namespace's pair record is not one.
    #[error("ConfigMap {PAIR_CONFIG_MAP} is not a pair record")]
    Pair(#[from] PairError),
    /// No answer in time.
    #[error("no answer from the API server within {} s", OWN_CALL.as_secs())]
    Timeout,
    /// A turn as home.
    #[error(transparent)]
    Home(#[from] home::HomeError),
    /// A turn as embassy.
    #[error(transparent)]
    Standby(#[from] standby::StandbyError),
}

/// Runs until SIGTERM.
///
/// # Errors
/// [`OperatorError`] when it cannot start or the health endpoint breaks.
pub async fn run(settings: Settings) -> Result<(), OperatorError> {
    let config = kube::Config::infer().await.map_err(|e| OperatorError::Client(Box::new(e)))?;
    let client = Client::try_from(config).map_err(|e| OperatorError::Client(Box::new(e)))?;
    let metrics = Metrics::default();
    let ready = Arc::new(AtomicBool::new(false));
    let admin = serve(settings.admin, AdminState { ready: ready.clone(), metrics: metrics.clone() });
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(settings.identity.clone()) };
    let context = Arc::new(Context {
        applier: Applier::new(client.clone(), OWN_CALL),
        recorder: Recorder::new(client.clone(), reporter),
        ledgers: LedgerHub::default(),
        probes: crate::probe::ProbeHub::default(),
        fences: home::fence::FenceHub::default(),
        home: home::HomeMemory::default(),
        standby: standby::StandbyMemory::default(),
        metrics,
        client,
        settings,
    });
    let controller = controller(context, ready);
    tokio::select! {
        result = admin => result.map_err(OperatorError::from),
        () = controller => Ok(()),
    }
}

async fn controller(context: Arc<Context>, ready: Arc<AtomicBool>) {
    let client = context.client.clone();
    let ours = watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGER}"));
    let embassies: Api<DataEmbassy> = Api::all(client.clone());
    let controller = Controller::new(embassies, watcher::Config::default());
    let by_policy = controller.store();
    tokio::spawn(first_list(client.clone(), ready));
    controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .owns(Api::<Job>::all(client.clone()), ours)
        .watches(Api::<EmbassyRequest>::all(client.clone()), watcher::Config::default(), |request| {
            Some(ObjectRef::new(&request.spec.target).within(&request.namespace().unwrap_or_default()))
        })
        .watches(Api::<ReplicaPolicy>::all(client), watcher::Config::default(), move |policy| {
            let (namespace, name) = (policy.namespace(), policy.name_any());
            let users = by_policy.state().into_iter();
            users
                .filter(|e| e.namespace() == namespace && e.spec.policy_ref.name == name)
                .map(|e| ObjectRef::from_obj(e.as_ref()))
                .collect::<Vec<_>>()
        })
        .shutdown_on_signal()
        .run(reconcile, on_error, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(error = crate::cli::chain(&error), "turn ended in an error");
            }
        })
        .await;
}

/// Ready is who can list DataEmbassies. (Not `Store::wait_until_ready`: it keeps one waker only, and
/// the controller itself waits on it; the second one to wait may sleep for ever.)
async fn first_list(client: Client, ready: Arc<AtomicBool>) {
    let api: Api<DataEmbassy> = Api::all(client);
    let one = ListParams::default().limit(1);
    loop {
        match tokio::time::timeout(OWN_CALL, api.list(&one)).await {
            Ok(Ok(_)) => return ready.store(true, std::sync::atomic::Ordering::Relaxed),
            Ok(Err(error)) => {
                tracing::warn!(error = crate::cli::chain(&error), "cannot list DataEmbassies yet");
            }
            Err(_) => tracing::warn!("no answer to the first list of DataEmbassies"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

async fn reconcile(object: Arc<DataEmbassy>, context: Arc<Context>) -> Result<Action, OperatorError> {
    let labels = labels(&object);
    context.metrics.reconciles.get_or_create(&labels).inc();
    let namespace = object.namespace().unwrap_or_default();
    // Boxed: the two parts' futures are large, and one of them is idle at any time.
    match pair_record(&context, &namespace).await? {
        Some(pair) => Ok(Box::pin(standby::reconcile(&object, &context, &pair)).await?),
        None => Ok(Box::pin(home::reconcile(&object, &context)).await?),
    }
}

/// The pair record of a namespace: present in an embassy's, absent at home. An error is neither.
async fn pair_record(context: &Context, namespace: &str) -> Result<Option<PairRecord>, OperatorError> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let found = tokio::time::timeout(OWN_CALL, api.get_opt(PAIR_CONFIG_MAP)).await;
    let found = found.map_err(|_| OperatorError::Timeout)?.map_err(|e| OperatorError::Role(Box::new(e)))?;
    let Some(map) = found else { return Ok(None) };
    let text = map.data.as_ref().and_then(|d| d.get(PAIR_KEY)).map(String::as_str).unwrap_or_default();
    Ok(Some(PairRecord::parse(text.as_bytes())?))
}

fn on_error(object: Arc<DataEmbassy>, error: &OperatorError, context: Arc<Context>) -> Action {
    context.metrics.reconcile_errors.get_or_create(&labels(&object)).inc();
    tracing::warn!(
        namespace = object.namespace().unwrap_or_default(),
        name = object.name_any(),
        error = crate::cli::chain(error),
        "reconcile failed"
    );
    Action::requeue(Duration::from_secs(3))
}

fn labels(object: &DataEmbassy) -> EmbassyLabels {
    EmbassyLabels { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}
