//! Waiting for conditions with a deadline.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Looks until `look` finds something; an error of `look` counts as "not yet" and is shown when
/// time is up.
///
/// # Errors
/// When `limit` has passed.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut last = String::from("never");
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => "not yet".clone_into(&mut last),
            Err(error) => last = format!("{error:#}"),
        }
        if start.elapsed() > limit {
            bail!("waited {} s for {what}; last look: {last}", limit.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}

/// Checks that `look` holds at every look for the whole of `span`.
///
/// # Errors
/// At the first look at which it does not.
pub fn holds(what: &str, span: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        if !look()? {
            bail!("{what} stopped being true after {:.1} s", start.elapsed().as_secs_f64());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
