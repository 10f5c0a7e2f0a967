//! The vault as its clients see it: the real program as a process, the stock `restic` and plain
//! HTTP as clients, real disks that are full, real kills.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "vault/access.rs"]
mod access;
#[path = "vault/crash.rs"]
mod crash;
#[path = "vault/disk.rs"]
mod disk;
#[path = "vault/dispatches.rs"]
mod dispatches;
#[path = "vault/harness.rs"]
mod harness;
#[path = "vault/pki.rs"]
mod pki;
#[path = "vault/protocol.rs"]
mod protocol;
#[path = "vault/stock.rs"]
mod stock;
#[path = "vault/throughput.rs"]
mod throughput;
