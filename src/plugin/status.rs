//! `kubectl embassy status`: how data embassies are, as each site sees them.

use super::kube::{Cluster, SiteError, Target};
use super::{age, say};
use crate::api::DataEmbassy;
use crate::api::conditions::types;
use crate::api::embassy::Phase;
use crate::api::ledger::Site;
use crate::api::names::PAIR_CONFIG_MAP;
use ::kube::ResourceExt as _;
use ::kube::api::ListParams;
use comfy_table::{Table, presets};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Arguments of `kubectl embassy status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// Only this DataEmbassy.
    pub name: Option<String>,
    /// Only this namespace (of home, or of the embassy); default: all.
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
    /// Kubeconfig of the one cluster to look at (default: $KUBECONFIG or ~/.kube/config).
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the one cluster to look at.
    #[arg(long)]
    pub context: Option<String>,
    /// Kubeconfig with home's context, to see both sites.
    #[arg(long)]
    pub home_kubeconfig: Option<PathBuf>,
    /// Context of home, to see both sites.
    #[arg(long)]
    pub home_context: Option<String>,
    /// Kubeconfig with the embassy's context, to see both sites.
    #[arg(long)]
    pub embassy_kubeconfig: Option<PathBuf>,
    /// Context of the embassy, to see both sites.
    #[arg(long)]
    pub embassy_context: Option<String>,
    /// `json` for machines.
    #[arg(short = 'o', long, value_parser = ["table", "json"], default_value = "table")]
    pub output: String,
}

/// Why nothing could be shown.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// A site refused or did not answer.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// It cannot be serialised.
    #[error("the status cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    /// None by that name.
    #[error("no DataEmbassy {0} was found; look without a name, or in another namespace or cluster")]
    NotFound(String),
    /// A site is missing from what was shown.
    #[error("not every site answered: what is shown is incomplete")]
    Incomplete(#[source] SiteError),
}

/// One DataEmbassy as one site sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The part that this site plays.
    pub role: Site,
    /// Summary.
    pub phase: Option<Phase>,
    /// The site that the writ names.
    pub active_site: Option<Site>,
    /// The highest epoch seen.
    pub epoch: Option<i64>,
    /// Home: the last dispatch committed. Embassy: the newest proven one.
    pub sequence: Option<i64>,
    /// Its cut.
    pub cut_time: Option<Timestamp>,
    /// When it was proven, at the embassy.
    pub proven_time: Option<Timestamp>,
    /// Seconds of writes that a takeover at this moment would lose at most; only the embassy's
    /// proven dispatch says it, and only while home writes.
    pub predicted_loss_seconds: Option<i64>,
    /// Deleted at home.
    pub retired: bool,
    /// Conditions that are not as they should be.
    pub problems: Vec<Problem>,
}

/// A condition that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are a condition's")]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// Shows it.
///
/// # Errors
/// [`StatusError`]; with two sites, what the one that answers says is shown all the same.
pub async fn run(args: &StatusArgs) -> Result<(), StatusError> {
    let mut rows = Vec::new();
    let mut lost = None;
    let mut namespaces: BTreeSet<String> = args.namespace.iter().cloned().collect();
    for (target, label) in targets(args) {
        // The site that is down is the reason why someone looks: show the other one.
        match site(&target, label, args, &namespaces).await {
            Ok(found) => {
                if args.namespace.is_some() {
                    namespaces.extend(found.iter().map(|(object, _)| object.spec.embassy.namespace.clone()));
                }
                rows.extend(found.into_iter().map(|(object, role)| row(&object, role, Timestamp::now())));
            }
            Err(error) if label == "the cluster" => return Err(error.into()),
            Err(error) => {
                eprintln!("{}", crate::cli::chain(&error));
                lost = Some(error);
            }
        }
    }
    rows.sort_by(|a, b| (&a.name, a.role as u8).cmp(&(&b.name, b.role as u8)));
    match &args.name {
        Some(name) if rows.is_empty() && lost.is_none() => return Err(StatusError::NotFound(name.clone())),
        _ => {}
    }
    if args.output == "json" {
        say(&serde_json::to_string_pretty(&rows).map_err(StatusError::Json)?);
    } else if !rows.is_empty() || lost.is_none() {
        // With a site that did not answer, an empty table would say that nothing is there.
        say(&render(&rows, Timestamp::now()));
    }
    lost.map_or(Ok(()), |error| Err(StatusError::Incomplete(error)))
}

fn targets(args: &StatusArgs) -> Vec<(Target, &'static str)> {
    let two = [
        (Target { kubeconfig: args.home_kubeconfig.clone(), context: args.home_context.clone() }, "home"),
        (
            Target { kubeconfig: args.embassy_kubeconfig.clone(), context: args.embassy_context.clone() },
            "the embassy",
        ),
    ];
    let mut given: Vec<_> =
        two.into_iter().filter(|(t, _)| t.kubeconfig.is_some() || t.context.is_some()).collect();
    if given.is_empty() || args.kubeconfig.is_some() || args.context.is_some() {
        let one = Target { kubeconfig: args.kubeconfig.clone(), context: args.context.clone() };
        given.push((one, "the cluster"));
    }
    given
}

/// The DataEmbassies of one cluster, each with the part that the cluster plays for it.
async fn site(
    target: &Target,
    label: &str,
    args: &StatusArgs,
    namespaces: &BTreeSet<String>,
) -> Result<Vec<(DataEmbassy, Site)>, SiteError> {
    let cluster = Cluster::connect(target, label).await?;
    let mut found = Vec::new();
    if namespaces.is_empty() {
        found = cluster.list(&cluster.all::<DataEmbassy>(), &ListParams::default()).await?;
    }
    for namespace in namespaces {
        found.extend(cluster.list(&cluster.namespaced(namespace), &ListParams::default()).await?);
    }
    let mut rows = Vec::new();
    for object in found.into_iter().filter(|o| args.name.as_ref().is_none_or(|name| *name == o.name_any())) {
        let told = object.status.as_ref().and_then(|status| status.role);
        let role = match told {
            Some(role) => role,
            None => role_of(&cluster, &object).await?,
        };
        rows.push((object, role));
    }
    Ok(rows)
}

/// For an object that no operator has touched yet.
async fn role_of(cluster: &Cluster, object: &DataEmbassy) -> Result<Site, SiteError> {
    let api = cluster.namespaced::<ConfigMap>(&object.namespace().unwrap_or_default());
    let pair = cluster.get(&api, PAIR_CONFIG_MAP).await?;
    Ok(if pair.is_some() { Site::Embassy } else { Site::Home })
}

/// What one site says, in one row.
#[must_use]
pub fn row(object: &DataEmbassy, role: Site, now: Timestamp) -> Row {
    let status = object.status.clone().unwrap_or_default();
    let dispatch = status.last_dispatch.unwrap_or_default();
    let cut_time = dispatch.cut_time.map(|time| time.0);
    let at_risk = role == Site::Embassy && status.active_site != Some(Site::Embassy);
    Row {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        role,
        phase: status.phase,
        active_site: status.active_site,
        epoch: status.epoch,
        sequence: (dispatch.sequence > 0).then_some(dispatch.sequence),
        cut_time,
        proven_time: dispatch.proven_time.map(|time| time.0),
        predicted_loss_seconds: cut_time
            .filter(|_| at_risk)
            .map(|cut| now.duration_since(cut).as_secs().max(0)),
        retired: object.spec.retired,
        problems: problems(&status.conditions, status.phase),
    }
}

/// The conditions that are not as they should be. `PromotionAllowed` is no problem while home is
/// well: then it is closed by design.
#[must_use]
pub fn problems(conditions: &[Condition], phase: Option<Phase>) -> Vec<Problem> {
    use Phase::{AwaitingWrit, HomeSuspect, Promoting, PromotionHeld};
    let promotion_matters = matches!(phase, Some(HomeSuspect | AwaitingWrit | PromotionHeld | Promoting));
    let bad = |condition: &&Condition| match condition.type_.as_str() {
        types::STALLED | types::DIVERGENCE_DETECTED | types::RECONCILING => condition.status != "False",
        types::PROMOTION_ALLOWED => promotion_matters && condition.status != "True",
        _ => condition.status != "True",
    };
    let problem = |condition: &Condition| Problem {
        kind: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    };
    conditions.iter().filter(bad).map(problem).collect()
}

/// The table, and below it what is wrong.
#[must_use]
pub fn render(rows: &[Row], now: Timestamp) -> String {
    if rows.is_empty() {
        return "no DataEmbassies found".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "NAMESPACE",
        "NAME",
        "ROLE",
        "PHASE",
        "ACTIVE",
        "EPOCH",
        "DISPATCH",
        "CUT",
        "PROVEN",
        "LOSS-NOW",
    ]);
    for row in rows {
        let dash = || "-".to_owned();
        let ago = |time: Option<Timestamp>| time.map_or_else(dash, |t| format!("{} ago", age(now, t)));
        let phase = row.phase.map_or_else(dash, |phase| format!("{phase:?}"));
        table.add_row([
            row.namespace.clone(),
            row.name.clone(),
            row.role.to_string(),
            if row.retired { format!("{phase} (retired)") } else { phase },
            row.active_site.map_or_else(dash, |site| site.to_string()),
            row.epoch.map_or_else(dash, |epoch| epoch.to_string()),
            row.sequence.map_or_else(dash, |sequence| sequence.to_string()),
            ago(row.cut_time),
            ago(row.proven_time),
            row.predicted_loss_seconds.and(row.cut_time).map_or_else(dash, |cut| age(now, cut)),
        ]);
    }
    let mut text = table.trim_fmt();
    for row in rows.iter().filter(|row| !row.problems.is_empty()) {
        text.push_str(&format!("\n\n{}/{} ({}):", row.namespace, row.name, row.role));
        for problem in &row.problems {
            let Problem { kind, status, reason, message } = problem;
            text.push_str(&format!("\n  {kind}={status} {reason}: {message}"));
        }
    }
    text
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
