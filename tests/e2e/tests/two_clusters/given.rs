//! What most tests begin with.

use anyhow::{Context as _, Result};
use e2e::manifests::{self, Wanted};
use e2e::{Names, Sites};
use serde_json::Value;
use std::time::Duration;

/// First copy of a small service, from pairing to proof.
pub const FIRST_COPY: Duration = Duration::from_secs(240);
/// Anything that should happen within a few turns of the operators.
pub const SOON: Duration = Duration::from_secs(90);

/// A small service at home, paired, with a DataEmbassy applied; nothing is waited for.
pub fn notes(sites: &Sites, test: &str, wanted: &Wanted) -> Result<Names> {
    let names = Names::of(test);
    sites.home()?.apply(&manifests::notes(&names, &marker(test), "encrypted"))?;
    sites.pair(&names, &["--vault-size", "256Mi"])?;
    sites.home()?.apply(&manifests::data_embassy(&names, wanted))?;
    Ok(names)
}

/// The same, and the first dispatch is proven.
pub fn proven_notes(sites: &Sites, test: &str, wanted: &Wanted) -> Result<Names> {
    let names = notes(sites, test, wanted)?;
    sites.proven(&names, 1, FIRST_COPY)?;
    Ok(names)
}

/// No more dispatches: what is over must not take the processors from the tests behind it.
pub fn rest(sites: &Sites, names: &Names) -> Result<()> {
    let patch = r#"{"spec":{"sync":{"suspend":true}}}"#;
    let args = ["patch", "rp", &names.name, "-n", &names.home, "--type=merge", "-p", patch];
    sites.home()?.kubectl(&args).map(drop)
}

/// Written by the service at home into its volume; seldom enough to be looked for on raw disks.
pub fn marker(test: &str) -> String {
    format!("MARKER-of-{test}-4711-never-in-clear-abroad")
}

/// The health check of a site that is alive: its API server.
pub fn api_server(sites: &Sites) -> Result<String> {
    Ok(format!("{}:6443", sites.home()?.node_ip()))
}

/// Manual promotion and no health check: no fault of another test can set it off.
pub fn calm() -> Wanted {
    Wanted { mode: "Manual", when: "interval: 5s".to_owned(), ..Wanted::default() }
}

/// A field of an object as text.
pub fn text(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// A field of an object as a number.
pub fn number(object: &Value, pointer: &str) -> Result<i64> {
    object.pointer(pointer).and_then(Value::as_i64).with_context(|| format!("no number at {pointer}"))
}
