//! The home part: mirror, dispatches, fence.

pub mod fence;

use super::Context;
use crate::api::DataEmbassy;
use kube::runtime::controller::Action;

/// What this part remembers between turns; losing it costs requests and never safety.
#[derive(Clone, Debug, Default)]
pub struct HomeMemory {}

/// Why a reconcile at home ended early.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {}

/// One turn for a DataEmbassy applied in this cluster.
///
/// # Errors
/// [`HomeError`]; it has been written to the status before.
pub async fn reconcile(_object: &DataEmbassy, _context: &Context) -> Result<Action, HomeError> {
    Ok(Action::await_change())
}
