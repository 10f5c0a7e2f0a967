//! When the next dispatch is due.
