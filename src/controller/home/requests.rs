//! Requests at home: which one is due, and what each is told. Pure.

use super::observation::{Observation, Request};
use crate::api::embassy::RunState;
use crate::api::request::{RequestState, Verb};
use serde::Serialize;

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The request.
    pub name: String,
    /// Where it stands now.
    pub state: RequestState,
    /// Why.
    pub message: String,
}

/// Requests that still wait, the oldest first.
pub(super) fn pending(seen: &Observation) -> impl Iterator<Item = &Request> {
    let done = |r: &&Request| matches!(r.state, Some(RequestState::Completed | RequestState::Refused));
    let mut waiting: Vec<&Request> = seen
        .requests
        .iter()
        .filter(|r| r.verb == Verb::Sync && !done(r) && answer(seen, r).state == RequestState::Accepted)
        .collect();
    waiting.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    waiting.into_iter()
}

/// What is to be said to open requests, where that is news.
pub(super) fn answers(seen: &Observation) -> Vec<Answer> {
    let open = |r: &&Request| !matches!(r.state, Some(RequestState::Completed | RequestState::Refused));
    seen.requests
        .iter()
        .filter(open)
        .map(|r| (r, answer(seen, r)))
        .filter(|(r, a)| r.state != Some(a.state) || r.message.as_deref() != Some(&a.message))
        .map(|(_, a)| a)
        .collect()
}

/// What is asked for at the wrong site. A request that nobody answers would be waited for.
const fn elsewhere(verb: Verb) -> Option<&'static str> {
    match verb {
        Verb::Sync => None,
        Verb::Promote | Verb::Override => Some("a promotion"),
        Verb::Retire => Some("retiring the copy"),
    }
}

/// The answer to one open request, from what is known now.
fn answer(seen: &Observation, request: &Request) -> Answer {
    let name = request.name.clone();
    let say = |state, message: String| Answer { name: name.clone(), state, message };
    if let Some(word) = elsewhere(request.verb) {
        let message = format!(
            "{word} is done at the embassy and never from here: make the EmbassyRequest there, with `kubectl embassy \
             {}`, against the embassy's cluster",
            if request.verb == Verb::Retire { "retire" } else { "promote" }
        );
        return say(RequestState::Refused, message);
    }
    let twin = seen.requests.iter().find(|other| {
        other.name != request.name
            && other.token == request.token
            && other.state == Some(RequestState::Completed)
    });
    if let Some(twin) = twin {
        return say(RequestState::Completed, format!("the same request as {} (same token)", twin.name));
    }
    let status = seen.status();
    let mine = status.run.filter(|r| r.trigger == format!("request/{}", request.name));
    match mine.as_ref().map(|r| (r.state, r)) {
        Some((Some(RunState::Succeeded), _)) => {
            let sequence = status.last_dispatch.map_or(0, |d| d.sequence);
            say(RequestState::Completed, format!("dispatch {sequence} is committed"))
        }
        Some((Some(RunState::Failed), run)) => {
            let why = run.message.as_deref().unwrap_or_default();
            let reason = run.reason.as_deref().unwrap_or("Failed");
            say(RequestState::Accepted, format!("try {} failed: {reason}: {why}", run.attempt))
        }
        Some(_) => say(RequestState::Accepted, "the dispatch is being made".to_owned()),
        None => say(RequestState::Accepted, "waiting for its turn".to_owned()),
    }
}
