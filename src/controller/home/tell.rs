//! What is told to people at home: Events, and the status of an operator that may not look.

use super::observe::ObserveError;
use super::turn::OWN_CALL;
use crate::api::DataEmbassy;
use crate::api::conditions::{self, Wanted, types};
use crate::api::embassy::DataEmbassyStatus;
use crate::cli::chain;
use crate::clock::now;
use crate::controller::Context;
use kube::Resource as _;
use kube::runtime::events::{Event, EventType};

/// Events for what has changed between two statuses. Pure.
pub(super) fn news(old: &DataEmbassyStatus, new: &DataEmbassyStatus) -> Vec<(EventType, String, String)> {
    let mut news = vec![];
    let sequence = |s: &DataEmbassyStatus| s.last_dispatch.as_ref().map(|d| d.sequence);
    if let Some(dispatch) = new.last_dispatch.as_ref().filter(|_| sequence(old) != sequence(new)) {
        let note = format!(
            "dispatch {} is committed: {} entries, {} bytes added, {:.1} s",
            dispatch.sequence, dispatch.files, dispatch.bytes_added, dispatch.duration_seconds
        );
        news.push((EventType::Normal, "DispatchCommitted".to_owned(), note));
    }
    let failure = |s: &DataEmbassyStatus| {
        s.run.as_ref().and_then(|r| Some((r.reason.clone()?, r.completion_time.clone())))
    };
    if let (Some(run), true) = (&new.run, failure(new).is_some() && failure(new) != failure(old)) {
        let reason = run.reason.as_deref().unwrap_or_default();
        let note = format!("{reason}: {} (try {})", run.message.as_deref().unwrap_or_default(), run.attempt);
        news.push((EventType::Warning, "DispatchFailed".to_owned(), note));
    }
    for condition in &new.conditions {
        let was = conditions::get(&old.conditions, &condition.type_);
        let same = was.is_some_and(|w| w.status == condition.status && w.reason == condition.reason);
        let told = [
            types::STALLED,
            types::EMBASSY_REACHABLE,
            types::REPLICA_FRESH,
            types::REPLICA_PROVEN,
            types::FENCE_READY,
        ];
        // That it is no more than best effort is no news.
        if same || !told.contains(&condition.type_.as_str()) || condition.reason == "BestEffort" {
            continue;
        }
        let bad = condition.status == if condition.type_ == types::STALLED { "True" } else { "False" };
        // What is well from the beginning is no news, and neither is a replica that is not there yet.
        let turned = was.is_some_and(|w| w.status != "Unknown" && w.status != condition.status);
        let replica = [types::REPLICA_FRESH, types::REPLICA_PROVEN].contains(&condition.type_.as_str());
        if turned || (bad && !replica) {
            let kind = if bad { EventType::Warning } else { EventType::Normal };
            let note = format!("{}={}: {}", condition.type_, condition.status, condition.message);
            news.push((kind, condition.reason.clone(), note));
        }
    }
    news
}

/// An Event, best effort: the status says the same.
pub(super) async fn tell(
    object: &DataEmbassy,
    type_: EventType,
    reason: &str,
    mut note: String,
    context: &Context,
) {
    // The API server refuses notes beyond 1 kB.
    let cut = (0..=note.len().min(1000)).rev().find(|i| note.is_char_boundary(*i)).unwrap_or(0);
    note.truncate(cut);
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let reference = object.object_ref(&());
    let sent = tokio::time::timeout(OWN_CALL, context.recorder.publish(&event, &reference)).await;
    if !matches!(sent, Ok(Ok(()))) {
        tracing::debug!(reason, "an Event could not be written");
    }
}

/// The operator may not even look: said in the status, as far as that can be written.
pub(super) async fn forbidden(object: &DataEmbassy, error: &ObserveError, context: &Context) {
    let mut object = object.clone();
    let mut status = object.status.take().unwrap_or_default();
    let text = chain(error);
    let message =
        format!("{text}; run `kubectl embassy pair` for this namespace, it binds the operator's rights");
    let old = status.clone();
    for wanted in [
        Wanted::yes(types::STALLED, "Forbidden", message.clone()),
        Wanted::no(types::READY, "Forbidden", message.clone()),
    ] {
        conditions::set(&mut status.conditions, &wanted, object.metadata.generation, now());
    }
    if old == status {
        return;
    }
    object.status = Some(status);
    if context.applier.replace_status(&object).await.is_ok() {
        tell(&object, EventType::Warning, "Forbidden", message, context).await;
    }
}
