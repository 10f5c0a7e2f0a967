//! Types that cross a boundary: custom resources, the pair record, the ledger, dispatch headers,
//! mover reports, names. No I/O and no clock in here.

#![allow(
    clippy::duplicated_attributes,
    reason = "clippy takes the arguments of each printcolumn for one list"
)]

pub mod conditions;
pub mod dispatch;
pub mod duration;
pub mod embassy;
pub mod ledger;
pub mod mirror;
pub mod names;
pub mod pair;
pub mod policy;
pub mod report;
pub mod request;
pub mod schema;

pub use embassy::{DataEmbassy, DataEmbassySpec, DataEmbassyStatus};
pub use policy::{ReplicaPolicy, ReplicaPolicySpec};
pub use request::{EmbassyRequest, EmbassyRequestSpec};
