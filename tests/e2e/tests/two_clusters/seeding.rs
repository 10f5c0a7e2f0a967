//! The copy itself.

use crate::given::{self, SOON, number, text};
use anyhow::{Result, ensure};
use e2e::Sites;
use e2e::sites::condition;

/// First seeding; then each sync carries what changed and not what did not.
pub fn copies(sites: &Sites) -> Result<()> {
    let wanted = e2e::manifests::Wanted { when: String::new(), ..given::calm() };
    let names = given::notes(sites, "seed", &wanted)?;
    // Neither schedule nor interval: nothing happens before somebody asks.
    sites.condition(|| sites.at_home(&names), "Stalled", "False", "AsExpected", SOON)?;
    let home = sites.home()?;
    // Too big to be hidden by overhead, and random, so that nothing compresses it away.
    let fill = "head -c 8388608 /dev/urandom > /data/big && sync && sha256sum /data/big";
    let exec =
        |command: &str| home.kubectl(&["exec", "-n", &names.home, "notes-0", "--", "sh", "-c", command]);
    home.kubectl(&["wait", "-n", &names.home, "--for=condition=Ready", "pod/notes-0", "--timeout=90s"])?;
    let sum = exec(fill)?;
    let sync = || {
        let site = ["-n", names.home.as_str(), "--wait", "--timeout", "4m"];
        sites.plugin(home, &[&["sync", names.name.as_str()], site.as_slice()].concat())
    };
    sync()?;
    let mirror = sites.proven(&names, 1, given::FIRST_COPY)?;
    let first = number(&sites.at_home(&names)?, "/status/lastDispatch/bytesAdded")?;
    ensure!(first > 8 << 20, "the first dispatch added {first} bytes, the volume holds more");
    ensure!(number(&mirror, "/status/lastDispatch/files")? >= 2, "the mirror counts no files");
    ensure!(text(&mirror, "/status/lastDispatch/provenBy") == "Embassy", "proven by someone else");

    exec("echo one more line >> /data/notes && sync")?;
    sync()?;
    let second = number(&sites.at_home(&names)?, "/status/lastDispatch/bytesAdded")?;
    ensure!(second > 0 && second < 1 << 20, "the second dispatch added {second} bytes: not incremental");
    let mirror = sites.proven(&names, 2, SOON)?;
    let ready = sites.at_home(&names)?;
    sites.condition(|| sites.at_home(&names), "Ready", "True", "Protected", SOON)?;
    ensure!(condition(&ready, "KeysAvailable").is_some_and(|c| text(c, "/status") == "True"));
    ensure!(text(&mirror, "/status/activeSite") == "Home" && number(&mirror, "/status/epoch")? == 0);
    // Nothing of a run outlives it.
    e2e::wait::until("temporary objects to go", SOON, || {
        let left = home.kubectl(&["get", "volumesnapshots,jobs", "-n", &names.home, "-o", "name"])?;
        let claims = home.kubectl(&["get", "pvc", "-n", &names.home, "-o", "name"])?;
        ensure!(left.trim().is_empty() && claims.lines().count() == 1, "left: {left} {claims}");
        Ok(Some(()))
    })?;
    println!("      seeding: first {first} bytes, then {second} bytes for one line; {}", sum.trim());
    Ok(())
}
