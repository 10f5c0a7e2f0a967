//! Types that cross a boundary: custom resources, the pair record, the ledger, dispatch headers,
//! mover reports, names. No I/O and no clock in here.

pub mod dispatch;
pub mod report;
