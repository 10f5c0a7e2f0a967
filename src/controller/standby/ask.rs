//! Asks the vault: what it has, and every header after the last one that was verified.

use super::StandbyMemory;
use super::build::vault;
use super::chain::{Received, follow, recall};
use super::observe::Observed;
use super::status::VaultView;
use crate::api::DataEmbassy;
use crate::api::pair::PairRecord;
use crate::cli::chain as causes;
use crate::vault_client::VaultClient;
use kube::ResourceExt as _;

/// Most headers that one turn reads; the next turn goes on.
const HEADERS: u64 = 32;

/// Asks the vault about this DataEmbassy's repository. Never fails: what went wrong is in the view.
pub async fn ask(
    object: &DataEmbassy,
    pair: &PairRecord,
    observed: &Observed,
    memory: &StandbyMemory,
    now: jiff::Timestamp,
) -> VaultView {
    let key = object.metadata.uid.clone().unwrap_or_default();
    let mut view = VaultView { verified: memory.get(&key), ..VaultView::default() };
    let address = vault::inside(observed.vault.service.as_ref());
    let deployment = observed.vault.deployment.as_ref().and_then(|d| d.status.as_ref());
    let ready = deployment.and_then(|s| s.ready_replicas).unwrap_or_default() > 0;
    let (Some(address), Some(credentials), true) = (address, &observed.material.client, ready) else {
        return view;
    };
    let client = match VaultClient::new(&address, credentials) {
        Ok(client) => client,
        Err(error) => {
            view.error = Some(causes(&error));
            return view;
        }
    };
    match client.status(&object.name_any()).await {
        Ok(status) => view.status = Some(status),
        Err(error) => {
            view.error = Some(causes(&error));
            return view;
        }
    }
    let start = view.verified.last().cloned().unwrap_or_else(|| known(object));
    catch_up(&client, object, pair, start, &mut view, now).await;
    memory.set(&key, &view.verified);
    view
}

/// Where the chain is taken up after a restart: at the newest proven dispatch, whose hash the status
/// keeps, else at the start.
fn known(object: &DataEmbassy) -> Received {
    let proven = object.status.as_ref().and_then(|status| status.last_dispatch.as_ref());
    let known = proven.and_then(|dispatch| {
        let mut known =
            Received::known(u64::try_from(dispatch.sequence).ok()?, dispatch.header_hash.as_deref()?);
        known.cut_time = dispatch.cut_time.as_ref().map(|time| time.0);
        known.received = dispatch.received_time.as_ref().map(|time| time.0);
        Some(known)
    });
    known.unwrap_or_else(Received::start)
}

async fn catch_up(
    client: &VaultClient,
    object: &DataEmbassy,
    pair: &PairRecord,
    start: Received,
    view: &mut VaultView,
    now: jiff::Timestamp,
) {
    let name = object.name_any();
    let mut last = start;
    if view.verified.is_empty() && last.sequence > 0 {
        let error = match client.header(&name, last.sequence).await {
            Ok(bytes) => match recall(&last, &bytes, pair) {
                Ok(recalled) => {
                    last = recalled;
                    None
                }
                Err(error) => Some(causes(&error)),
            },
            Err(error) => Some(causes(&error)),
        };
        if error.is_some() {
            // It is tried again: without its volumes this dispatch could not be restored again.
            view.error = error;
            return;
        }
        view.verified.push(last.clone());
    }
    let status = view.status.as_ref();
    let newest = status.and_then(|s| s.last_sequence).unwrap_or_default();
    if newest < last.sequence {
        view.refused = Some(format!(
            "the vault's newest dispatch is {newest}, but {} was seen: the vault was rolled back or emptied",
            last.sequence
        ));
    }
    let header = status.and_then(|s| s.last_header.as_deref());
    if newest == last.sequence && newest > 0 && header.is_some_and(|header| header != last.hash) {
        view.refused = Some(format!(
            "the vault's dispatch {newest} is another one than was seen before: its history was rewritten"
        ));
    }
    for sequence in (last.sequence + 1)..=newest.min(last.sequence.saturating_add(HEADERS)) {
        let bytes = match client.header(&name, sequence).await {
            Ok(bytes) => bytes,
            Err(error) => {
                view.error = Some(causes(&error));
                break;
            }
        };
        match follow(&last, &bytes, pair, &name, now) {
            Ok(received) => {
                view.verified.push(received.clone());
                last = received;
            }
            Err(error) => {
                view.refused = Some(causes(&error));
                break;
            }
        }
    }
}
