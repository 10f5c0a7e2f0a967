//! The data-embassy operator: a living, sealed copy of a cluster's registers on foreign soil, which
//! takes over when home is lost, and never at the same time as home.
//!
//! Start with `domain/`: it holds every decision as a pure function. `docs/architecture.md` has the
//! map and the one direction in which data flows.

pub mod admin;
pub mod api;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod controller;
pub mod crash;
pub mod crds;
pub mod domain;
pub mod lease;
pub mod metrics;
pub mod mover;
pub mod plugin;
pub mod probe;
pub mod telemetry;
pub mod vault;
pub mod vault_client;
