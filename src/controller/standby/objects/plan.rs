//! What has to be written so that the embassy has what the manifests say: a pure function.

use super::kind::Kind;
use super::transform::StandbyObject;
use super::{Finding, Mode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// One object as it stands in the embassy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Its uid.
    pub uid: String,
    /// What it was made from.
    pub hash: Option<String>,
    /// True if it carries the labels of this DataEmbassy's standby.
    pub ours: bool,
    /// True if it is on its way out.
    pub deleting: bool,
    /// `spec.replicas`, for workloads.
    pub replicas: i32,
    /// Ready replicas of the newest generation, for workloads.
    pub ready: i32,
    /// Home's replicas by its annotation, for workloads.
    pub home_replicas: i32,
    /// The workload's own word on why it is not ready.
    pub message: Option<String>,
    /// Labels of its pods, for workloads.
    pub selector: BTreeMap<String, String>,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// By kind and name: all of this standby's, and others of the wanted names.
    pub live: BTreeMap<(Kind, String), Live>,
    /// Kinds that may not be read, with the API server's words.
    pub unreadable: BTreeMap<Kind, String>,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Server-side apply.
    Apply {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// All of it.
        object: Value,
        /// Uid of the one that is there; it may then be made anew if a field cannot be changed.
        replaces: Option<String>,
    },
    /// It is gone at home.
    Delete {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// The one that was seen, and no namesake.
        uid: String,
    },
}

/// Decides what is written, in order; what cannot be is a finding.
#[must_use]
pub fn plan(desired: &[StandbyObject], observed: &Observed, mode: Mode) -> (Vec<Step>, Vec<Finding>) {
    let mut steps = Vec::new();
    let mut findings = Vec::new();
    for wanted in desired {
        match one(wanted, observed, mode) {
            Ok(step) => steps.extend(step),
            Err(finding) => findings.push(finding),
        }
    }
    if mode == Mode::PilotLight {
        steps.extend(prune(desired, observed));
    }
    (steps, findings)
}

fn one(wanted: &StandbyObject, observed: &Observed, mode: Mode) -> Result<Option<Step>, Finding> {
    let (kind, name) = (wanted.kind, wanted.name.as_str());
    if let Some(why) = observed.unreadable.get(&kind) {
        return Err(Finding::forbidden(kind, name, why));
    }
    let live = observed.live.get(&(kind, wanted.name.clone()));
    if let Some(live) = live {
        if !live.ours {
            let message = "one of that name is there already and is not this standby's: rename one of them, or delete it in the embassy";
            return Err(Finding::omitted(kind, name, "NotOurs", message));
        }
        if live.deleting {
            let message = match mode {
                Mode::PilotLight => "it is being deleted in the embassy and will be made anew",
                Mode::Serving => "it is being deleted in the embassy while it serves: make it anew by hand",
            };
            return Err(Finding::omitted(kind, name, "Terminating", message));
        }
        if mode == Mode::Serving {
            return drift(wanted, live);
        }
        // Somebody scaled a pilot light up: without the writ it must not run.
        let burning = kind.is_workload() && live.replicas != 0;
        if live.hash.as_deref() == Some(wanted.hash.as_str()) && !burning {
            return Ok(None);
        }
    }
    if mode == Mode::Serving {
        let message =
            "it is not there although the standby serves: somebody deleted it; make it anew by hand";
        return Err(Finding::omitted(kind, name, "Missing", message));
    }
    let mut object = wanted.object.clone();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
        && kind.is_workload()
    {
        spec.insert("replicas".into(), json!(0));
    }
    let replaces = live.map(|l| l.uid.clone());
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(uid) = &replaces
    {
        // A namesake that came in between is somebody else's: the API server answers Conflict.
        metadata.insert("uid".into(), json!(uid));
    }
    Ok(Some(Step::Apply { kind, name: wanted.name.clone(), object, replaces }))
}

/// What serves is left as it was promoted, and a difference is only told.
fn drift(wanted: &StandbyObject, live: &Live) -> Result<Option<Step>, Finding> {
    if live.hash.as_deref() == Some(wanted.hash.as_str()) {
        return Ok(None);
    }
    let message = "the mirror's spec has changed since the promotion: what serves is left as it is until the writ \
                   is home's again";
    Err(Finding::changed(wanted.kind, &wanted.name, "SpecDrift", message))
}

/// Workloads first: they use the others.
fn prune(desired: &[StandbyObject], observed: &Observed) -> Vec<Step> {
    let wanted: BTreeSet<_> = desired.iter().map(|d| (d.kind, d.name.as_str())).collect();
    removal(observed, |kind, name| !wanted.contains(&(kind, name)))
}

/// Deletes what is this standby's and `gone`.
#[must_use]
pub fn removal(observed: &Observed, gone: impl Fn(Kind, &str) -> bool) -> Vec<Step> {
    let ours = observed.live.iter().rev().filter(|(_, live)| live.ours && !live.deleting);
    ours.filter(|((kind, name), _)| gone(*kind, name))
        .map(|((kind, name), live)| Step::Delete { kind: *kind, name: name.clone(), uid: live.uid.clone() })
        .collect()
}
