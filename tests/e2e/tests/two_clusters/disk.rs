//! The host country, with the embassy's disks in its hands and the power off.

use crate::given;
use anyhow::{Context as _, Result, ensure};
use e2e::Sites;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use testbed::Cluster;

/// Written to the host's copy of an unencrypted volume, to see that the search finds what is there.
const CONTROL: &str = "MARKER-control-on-a-plain-volume-0815";

/// The raw images of vault and standby volumes, keys locked, hold no marker that home wrote.
/// Runs last: it takes the power away from the embassy.
pub fn host_reads_nothing(sites: &Sites) -> Result<()> {
    let embassy = sites.embassy()?;
    plain_volume(embassy)?;
    embassy.kill_site()?;
    let images = images(&embassy.storage_dir())?;
    ensure!(images.len() >= 4, "only {} volumes: vaults and standby volumes are missing", images.len());
    let mut seen_control = false;
    let (mut bytes, mut encrypted) = (0, 0);
    for image in &images {
        let found = search(image, &["MARKER-of-", CONTROL])?;
        ensure!(!found.contains(&"MARKER-of-"), "{} holds a marker in the clear", image.display());
        seen_control |= found.contains(&CONTROL);
        encrypted += usize::from(!found.contains(&CONTROL));
        bytes += std::fs::metadata(image)?.len();
    }
    ensure!(seen_control, "the search does not find what is there: it proves nothing");
    println!("      disk: {} raw images, {} MiB, {encrypted} without any marker", images.len(), bytes >> 20);
    ensure!(!given::marker("x").contains(CONTROL) && given::marker("x").starts_with("MARKER-of-"));
    embassy.start_site()
}

fn plain_volume(cluster: &Cluster) -> Result<()> {
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: control, namespace: default}}
spec: {{storageClassName: plain, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 32Mi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: control, namespace: default}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: control}}}}]
  containers:
  - name: write
    image: localhost/busybox:test
    imagePullPolicy: Never
    command: [sh, -c, "echo '{CONTROL}' > /data/control && sync"]
    volumeMounts: [{{name: data, mountPath: /data}}]
"#
    ))?;
    let done =
        ["wait", "pod/control", "-n", "default", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"];
    cluster.kubectl(&done).map(drop)
}

/// Every regular file of the storage's folder that is a disk image (a volume's or a snapshot's).
fn images(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(path) = stack.pop() {
        for entry in std::fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                stack.push(entry.path());
            } else if entry.metadata()?.len() >= 1 << 20 {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Which of the words are in the file.
fn search<'a>(file: &Path, words: &[&'a str]) -> Result<Vec<&'a str>> {
    let longest = words.iter().map(|word| word.len()).max().unwrap_or(0);
    let mut source = File::open(file)?;
    let mut window = vec![0; 1 << 20];
    let (mut kept, mut found) = (0, Vec::new());
    loop {
        let read = source.read(window.get_mut(kept..).unwrap_or_default())?;
        if read == 0 {
            return Ok(found);
        }
        let filled = kept + read;
        let part = window.get(..filled).unwrap_or_default();
        // Mostly holes: a block of zeros holds no word.
        if part.iter().any(|byte| *byte != 0) {
            for word in words {
                if !found.contains(word) && part.windows(word.len()).any(|at| at == word.as_bytes()) {
                    found.push(*word);
                }
            }
        }
        kept = longest.min(filled);
        window.copy_within(filled - kept..filled, 0);
    }
}
