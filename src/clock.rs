//! The only place where a clock is read.
//!
//! Safety decisions use [`boottime`]: it counts suspended time too, which `std::time::Instant` does
//! not on Linux; an operator that slept must not believe that its permit is still young.

use std::time::Duration;

pub use crate::domain::boot::Boot;

/// Reads the boot-time clock. With the cargo feature `testclock` it runs at the rate of
/// `EMBASSY_TESTCLOCK_RATE` (1.0 is true time), so that tests can have two sites whose clocks drift.
#[must_use]
pub fn boottime() -> Boot {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let secs = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(t.tv_nsec).unwrap_or(0);
    let raw = Duration::new(secs, nanos.min(999_999_999));
    #[cfg(feature = "testclock")]
    let raw = raw.mul_f64(test_rate());
    Boot(raw)
}

#[cfg(feature = "testclock")]
fn test_rate() -> f64 {
    let rate = std::env::var("EMBASSY_TESTCLOCK_RATE").ok().and_then(|r| r.parse::<f64>().ok());
    rate.filter(|r| (0.1..=10.0).contains(r)).unwrap_or(1.0)
}

/// Wall-clock time: for schedules, status and people; never for the writ.
#[must_use]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
