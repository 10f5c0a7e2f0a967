//! What the demo and the two-cluster tests share: two sites with the operator from its chart, a
//! PostgreSQL register at home under load, and readers that see what applications see.

pub mod binaries;
pub mod manifests;
pub mod register;
pub mod sites;
pub mod wait;

pub use binaries::Binaries;
pub use register::{Acked, Register};
pub use sites::{Names, Sites};
