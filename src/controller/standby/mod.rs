//! The embassy part: vault, restore, standby, promotion.

use super::Context;
use crate::api::{DataEmbassy, pair::PairRecord};
use kube::runtime::controller::Action;

/// What this part remembers between turns; losing it costs requests and never safety.
#[derive(Clone, Debug, Default)]
pub struct StandbyMemory {}

/// Why a reconcile in the embassy ended early.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {}

/// One turn for a DataEmbassy mirrored into this cluster; `pair` is its namespace's pair record.
///
/// # Errors
/// [`StandbyError`]; it has been written to the status before.
pub async fn reconcile(
    _object: &DataEmbassy,
    _context: &Context,
    _pair: &PairRecord,
) -> Result<Action, StandbyError> {
    Ok(Action::await_change())
}
