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

use base64::Engine as _;

/// Standard base64, as in Secrets.
///
/// # Errors
/// When it is none.
pub fn base64_decode(text: &str) -> anyhow::Result<Vec<u8>> {
    Ok(base64::engine::general_purpose::STANDARD.decode(text.trim())?)
}

/// Standard base64, as in Secrets.
#[must_use]
pub fn base64_encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
