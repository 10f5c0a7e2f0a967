//! Points at which a test can make the operator die as by `kill -9`, to show that every one of
//! them leads to the same end. Only with the cargo feature `testcrash`, never in a release image.

/// Dies here if the environment's `EMBASSY_TESTCRASH` names this point. Without the feature it is
/// nothing at all.
#[inline]
pub fn point(name: &str) {
    #[cfg(feature = "testcrash")]
    if std::env::var("EMBASSY_TESTCRASH").is_ok_and(|wanted| wanted == name) {
        eprintln!("EMBASSY_TESTCRASH: dying at {name}");
        std::process::abort();
    }
    #[cfg(not(feature = "testcrash"))]
    let _ = name;
}
