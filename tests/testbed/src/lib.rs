//! Real Kubernetes clusters for tests, without Docker and without a registry: each one in a network
//! namespace of its own, with a network between them that can be cut, and sites that can be killed.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use testbed::{Spec, Testbed};
//! let bed = Testbed::up(&Spec::two().with_witness())?;
//! let home = bed.cluster("home")?;
//! println!("{}", home.kubectl(&["get", "nodes"])?);
//! bed.cut("home", "embassy")?;
//! home.kill_site()?;
//! home.start_site()?;
//! bed.down()?;
//! # Ok(())
//! # }
//! ```

mod boot;
pub mod cache;
mod cgroup;
mod clean;
mod cluster;
mod components;
pub mod disk;
mod host;
pub mod image;
pub mod net;
mod pki;
mod process;
mod program;
pub mod storage;
mod sys;
mod testbed;

pub use clean::traces;
pub use cluster::{Cluster, Kind};
pub use components::Component;
pub use process::Process;
pub use sys::wait_for;
pub use testbed::{Spec, Testbed, base, clean_dead, live_instances};
