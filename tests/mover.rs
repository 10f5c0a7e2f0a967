//! The mover as its users run it: the real binary, the stock restic, real file systems.
//!
//! What came out is judged by `judge`, which shares no code with the mover.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unwrap_in_result,
    missing_docs
)]

#[allow(dead_code)]
#[path = "vault/harness.rs"]
mod harness;
#[allow(dead_code)]
#[path = "vault/pki.rs"]
mod pki;

#[path = "mover/bench.rs"]
mod bench;
#[path = "mover/corpus.rs"]
mod corpus;
#[path = "mover/judge.rs"]
mod judge;

#[path = "mover/by_hand.rs"]
mod by_hand;
#[path = "mover/crash.rs"]
mod crash;
#[path = "mover/dispatch.rs"]
mod dispatch;
#[path = "mover/fidelity.rs"]
mod fidelity;
#[path = "mover/hostile.rs"]
mod hostile;
#[path = "mover/proxy.rs"]
mod proxy;
#[path = "mover/vault.rs"]
mod vault;
