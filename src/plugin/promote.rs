//! `kubectl embassy promote`: shows what a takeover would serve and lose, and asks for it.

use super::confirm::{self, ConfirmError};
use super::kube::{Cluster, SiteArgs, SiteError};
use super::{age, request, say};
use crate::api::DataEmbassy;
use crate::api::conditions::{get, types};
use crate::api::duration::Span;
use crate::api::embassy::Phase;
use crate::api::ledger::Site;
use crate::api::names::PAIR_CONFIG_MAP;
use crate::api::request::Verb;
use ::kube::ResourceExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use std::time::Duration;
use tokio::time::Instant;

/// Conditions that a promotion looks at, in the order in which people ask about them.
const GATES: [&str; 7] = [
    types::PROMOTION_ALLOWED,
    types::REPLICA_PROVEN,
    types::REPLICA_FRESH,
    types::KEYS_AVAILABLE,
    types::QUORUM_AVAILABLE,
    types::FENCE_READY,
    types::ENCRYPTION_VERIFIED,
];

/// Arguments of `kubectl embassy promote`.
#[derive(Clone, Debug, clap::Args)]
pub struct PromoteArgs {
    /// The DataEmbassy, at the embassy.
    pub name: String,
    #[command(flatten)]
    site: SiteArgs,
    /// Promote although a gate is closed. Suspends the guarantee against two writers.
    #[arg(long = "override")]
    overriding: bool,
    /// Do not ask; without --override only.
    #[arg(short = 'y', long, conflicts_with = "overriding")]
    yes: bool,
    /// With --override, for scripts: the DataEmbassy's name once more.
    #[arg(long, value_name = "NAME", requires = "overriding")]
    confirm: Option<String>,
    /// Why, for the record.
    #[arg(long)]
    reason: Option<String>,
    /// Wait until the embassy serves.
    #[arg(long)]
    wait: bool,
    /// Longest wait.
    #[arg(long, default_value = "15m")]
    timeout: Span,
}

/// Why no promotion was asked for, or none came.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// A site refused or did not answer.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The request did not come to its end.
    #[error(transparent)]
    Request(#[from] request::RequestError),
    /// Not confirmed.
    #[error(transparent)]
    Confirm(#[from] ConfirmError),
    /// It cannot be promoted here and now.
    #[error("{0}")]
    Not(String),
    /// Not within the deadline.
    #[error("not promoted within {seconds} s ({last}); request {request} stays in force")]
    Deadline {
        /// The deadline.
        seconds: u64,
        /// What was known last.
        last: String,
        /// The request.
        request: String,
    },
}

/// Shows, asks, and waits if told to.
///
/// # Errors
/// [`PromoteError`].
pub async fn run(args: &PromoteArgs) -> Result<(), PromoteError> {
    let cluster = Cluster::connect(&args.site.target(), "the embassy").await?;
    let namespace = args.site.namespace.clone().unwrap_or_else(|| cluster.default_namespace.clone());
    let object = cluster.get(&cluster.namespaced::<DataEmbassy>(&namespace), &args.name).await?;
    let pair = cluster.get(&cluster.namespaced::<ConfigMap>(&namespace), PAIR_CONFIG_MAP).await?;
    let object = promotable(object, pair.is_some(), &namespace, &args.name).map_err(PromoteError::Not)?;
    say(&briefing(&object, Timestamp::now()));
    if args.overriding {
        say(OVERRIDE);
        confirm::typed("", &args.name, args.confirm.as_deref(), &format!("--confirm {}", args.name))?;
    } else {
        confirm::typed("Promote?", "yes", args.yes.then_some("yes"), "--yes")?;
    }
    let verb = if args.overriding { Verb::Override } else { Verb::Promote };
    let reason = request::reason(&cluster, args.reason.as_deref()).await;
    let asked = request::build(&namespace, &args.name, verb, &reason);
    let name = request::submit(&cluster, &asked).await?;
    say(&format!("embassyrequest {name} created"));
    if args.wait {
        wait(&cluster, &namespace, &args.name, &name, args.timeout.get()).await?;
    }
    Ok(())
}

/// What a user reads before an override.
const OVERRIDE: &str = "\
\nTHIS OVERRIDES THE WRIT. The guarantee against two writers is suspended: nothing stops home, if it
still lives, from going on to write, and what it wrote after the dispatch above is not in this copy.
Make sure by other means that home is down (power, network, a phone call) before you go on.
The override stays on record in the ledger and in the status.";

/// The mirror, if a promotion can be asked for here.
///
/// # Errors
/// The reason, with the mend.
pub fn promotable(
    object: Option<DataEmbassy>,
    embassy: bool,
    namespace: &str,
    name: &str,
) -> Result<DataEmbassy, String> {
    let object = object.ok_or_else(|| format!("no DataEmbassy {name} in namespace {namespace}"))?;
    let status = object.status.clone().unwrap_or_default();
    if !embassy {
        Err(format!("namespace {namespace} is no embassy: a promotion is ordered at the embassy"))
    } else if object.spec.retired {
        Err(format!("{name} was deleted at home and is retired: its standby is stopped"))
    } else if status.phase == Some(Phase::Promoted) && status.active_site == Some(Site::Embassy) {
        Err(format!("{name} is promoted already"))
    } else if status.last_dispatch.is_none() {
        Err(format!("{name} has no proven dispatch yet: there is nothing to serve (kubectl embassy status)"))
    } else {
        Ok(object)
    }
}

/// What a promotion at `now` would serve and lose, and which gates are open.
#[must_use]
pub fn briefing(object: &DataEmbassy, now: Timestamp) -> String {
    let status = object.status.clone().unwrap_or_default();
    let dispatch = status.last_dispatch.unwrap_or_default();
    let mut text = format!(
        "{}/{}: phase {}, active site {}, epoch {}\n",
        object.namespace().unwrap_or_default(),
        object.name_any(),
        status.phase.map_or_else(|| "unknown".to_owned(), |phase| format!("{phase:?}")),
        status.active_site.map_or_else(|| "unknown".to_owned(), |site| site.to_string()),
        status.epoch.map_or_else(|| "unknown".to_owned(), |epoch| epoch.to_string()),
    );
    match dispatch.cut_time {
        Some(cut) => text.push_str(&format!(
            "newest proven dispatch: {}, cut {}\npredicted loss: what home wrote in the last {}\n",
            dispatch.sequence,
            cut.0,
            age(now, cut.0),
        )),
        None => text.push_str("newest proven dispatch: its cut time is unknown, and so is the loss\n"),
    }
    text.push_str("gates:");
    for kind in GATES {
        let line = match get(&status.conditions, kind) {
            Some(condition) if condition.status == "True" => format!("open    {kind}"),
            Some(c) => format!("CLOSED  {kind} {}: {}", c.reason, c.message),
            None => format!("UNKNOWN {kind}: the operator has not said"),
        };
        text.push_str(&format!("\n  {line}"));
    }
    for check in &status.health_checks {
        let message = check.message.as_deref().unwrap_or_default();
        text.push_str(&format!("\n  check   {} of home: {} {message}", check.name, check.state));
    }
    text
}

async fn wait(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    asked: &str,
    deadline: Duration,
) -> Result<(), PromoteError> {
    let end = Instant::now() + deadline;
    let mut shown = String::new();
    loop {
        let last = match turn(cluster, namespace, name, asked).await {
            Ok(Progress::Promoted(text)) => {
                say(&text);
                return Ok(());
            }
            Ok(Progress::Under(text)) => text,
            // An API server that is away for a moment ends no wait.
            Err(PromoteError::Site(error)) if error.code().is_none() => crate::cli::chain(&error),
            Err(error) => return Err(error),
        };
        if last != shown {
            say(&last);
            shown.clone_from(&last);
        }
        if Instant::now() >= end {
            return Err(PromoteError::Deadline {
                seconds: deadline.as_secs(),
                last,
                request: asked.to_owned(),
            });
        }
        tokio::time::sleep(request::POLL).await;
    }
}

/// How far a promotion is.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// At its end, with a summary.
    Promoted(String),
    /// On its way, with where it stands.
    Under(String),
}

async fn turn(cluster: &Cluster, namespace: &str, name: &str, asked: &str) -> Result<Progress, PromoteError> {
    match request::look(cluster, namespace, asked).await {
        Ok(_) => {}
        Err(request::RequestError::Site(error)) => return Err(error.into()),
        Err(error) => return Err(error.into()),
    }
    let found = cluster.get(&cluster.namespaced::<DataEmbassy>(namespace), name).await?;
    found.map(|object| progress(&object)).ok_or_else(|| PromoteError::Not(format!("{name} was deleted")))
}

/// Where a promotion stands, by the object's status.
#[must_use]
pub fn progress(object: &DataEmbassy) -> Progress {
    let status = object.status.clone().unwrap_or_default();
    if status.phase == Some(Phase::Promoted) && status.active_site == Some(Site::Embassy) {
        let record = status.last_promotion.map_or_else(String::new, |done| {
            let (took, lost) = (done.recovery_seconds, done.data_loss_seconds);
            format!(": dispatch {}, serving after {took:.1} s, at most {lost:.0} s lost", done.sequence)
        });
        return Progress::Promoted(format!("promoted{record}"));
    }
    let phase = status.phase.map_or_else(|| "no phase yet".to_owned(), |phase| format!("{phase:?}"));
    let step = status.promotion.map_or_else(String::new, |promotion| format!(": {:?}", promotion.step));
    let gate = get(&status.conditions, types::PROMOTION_ALLOWED).filter(|c| c.status != "True");
    let gate = gate.map_or_else(String::new, |c| format!(" ({}: {})", c.reason, c.message));
    Progress::Under(format!("{phase}{step}{gate}"))
}

#[cfg(test)]
#[path = "promote_tests.rs"]
mod tests;
