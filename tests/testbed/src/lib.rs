//! Real clusters for tests.
pub mod storage;
