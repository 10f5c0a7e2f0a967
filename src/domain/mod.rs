//! Every decision, as a pure function: no client, no task, no clock; `now` is an argument and
//! missing evidence means hold.

pub mod boot;
pub mod health;
pub mod promotion;
pub mod schedule;
pub mod storage;
pub mod storage_size;
pub mod writ;
