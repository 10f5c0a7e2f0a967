//! Storage for test clusters: a dynamic provisioner of local volumes, encrypted ones among
//! them, that also plays the snapshot controller and the CSI driver.
//!
//! A volume is one sparse image file with an ext4 in it; an encrypted one has an fscrypt policy
//! under a key of its own on the directory that pods get. Contents, file names and symbolic
//! link targets are encrypted; sizes, times and extended attributes are not.
//! [`volume`] and [`site`] do the disk part and know nothing of Kubernetes.

mod freeze;
mod fscrypt;
mod image;
mod ioctl;
mod layout;
mod loopdev;
mod objects;
mod provisioner;
mod run;
pub mod site;
mod snapshotter;
pub mod volume;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod object_tests;

pub use image::{contains, raw_images};
pub use layout::Layout;
pub use run::{ProvisionerArgs, run};
pub use site::{cleanup, lock_all, mount_all, power_cut, thaw_all};
pub use volume::{Content, Request, SnapshotInfo, Volumes, leftovers};
