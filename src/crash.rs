//! Points at which a test can make the operator die as by `kill -9`, to show that every one of
//! them leads to the same end. Only with the cargo feature `testcrash`, never in a release image.

/// Dies here, once, if the environment's `EMBASSY_TESTCRASH` (a folder that outlives the process)
/// holds a file `<name>.armed`, which becomes `<name>.died`. Without the feature it is nothing at all.
#[inline]
pub fn point(name: &str) {
    #[cfg(feature = "testcrash")]
    if let Ok(folder) = std::env::var("EMBASSY_TESTCRASH") {
        let folder = std::path::Path::new(&folder);
        if std::fs::rename(folder.join(format!("{name}.armed")), folder.join(format!("{name}.died"))).is_ok()
        {
            eprintln!("EMBASSY_TESTCRASH: dying at {name}");
            std::process::abort();
        }
    }
    #[cfg(not(feature = "testcrash"))]
    let _ = name;
}
