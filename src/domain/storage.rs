//! StorageClasses that are known to encrypt: a catalogue by provisioner and parameter.
//!
//! What is not in it is not known, and not known is not encrypted. An admin who knows better says
//! so with the annotation [`ANNOTATION_ENCRYPTED`] on the class.

use crate::api::names::ANNOTATION_ENCRYPTED;
use k8s_openapi::api::storage::v1::StorageClass;
use std::collections::BTreeMap;

/// What is known of a StorageClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// It encrypts; by what this is known.
    Known(String),
    /// It is not known to; what would change that.
    NotKnown(String),
}

impl Encryption {
    /// True if the class is known to encrypt.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }
}

/// How a provisioner shows that it encrypts.
enum Rule {
    /// The provider encrypts every volume at rest.
    Always,
    /// When one of these parameters is `"true"`.
    Flag(&'static [&'static str]),
    /// LINSTOR: a flag, or a list of layers with `luks` in it.
    Linstor,
}

/// Provisioner (or its suffix, when it starts with a dot: Rook prefixes Ceph's names with its
/// namespace) and its rule. Only what the provider's own documentation says.
const CATALOGUE: &[(&str, Rule)] = &[
    ("ebs.csi.aws.com", Rule::Flag(&["encrypted"])),
    ("kubernetes.io/aws-ebs", Rule::Flag(&["encrypted"])),
    ("pd.csi.storage.gke.io", Rule::Always),
    ("kubernetes.io/gce-pd", Rule::Always),
    ("disk.csi.azure.com", Rule::Always),
    ("kubernetes.io/azure-disk", Rule::Always),
    ("rbd.csi.ceph.com", Rule::Flag(&["encrypted"])),
    (".rbd.csi.ceph.com", Rule::Flag(&["encrypted"])),
    ("cephfs.csi.ceph.com", Rule::Flag(&["encrypted"])),
    (".cephfs.csi.ceph.com", Rule::Flag(&["encrypted"])),
    ("driver.longhorn.io", Rule::Flag(&["encrypted"])),
    ("pxd.portworx.com", Rule::Flag(&["secure"])),
    ("kubernetes.io/portworx-volume", Rule::Flag(&["secure"])),
    ("linstor.csi.linbit.com", Rule::Linstor),
    ("dobs.csi.digitalocean.com", Rule::Always),
    ("vpc.block.csi.ibm.io", Rule::Always),
    ("blockvolume.csi.oraclecloud.com", Rule::Always),
    ("diskplugin.csi.alibabacloud.com", Rule::Flag(&["encrypted"])),
    ("csi.scaleway.com", Rule::Flag(&["encrypted"])),
];

/// What is known of `class`.
#[must_use]
pub fn encryption(class: &StorageClass) -> Encryption {
    let name = class.metadata.name.as_deref().unwrap_or_default();
    let said = class.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION_ENCRYPTED));
    match said.map(String::as_str) {
        Some("true") => return Encryption::Known(format!("the admin's annotation on StorageClass {name}")),
        // The admin's word holds in both directions.
        Some(other) => {
            return Encryption::NotKnown(format!(
                "StorageClass {name} is annotated {ANNOTATION_ENCRYPTED}={other:?}: make it \"true\" when it does encrypt"
            ));
        }
        None => {}
    }
    let provisioner = class.provisioner.as_str();
    let none = BTreeMap::new();
    let parameters = class.parameters.as_ref().unwrap_or(&none);
    let rule = CATALOGUE.iter().find(|(known, _)| matches(known, provisioner)).map(|(_, rule)| rule);
    let missing = match rule {
        Some(Rule::Always) => return Encryption::Known(format!("{provisioner} encrypts every volume")),
        Some(Rule::Flag(keys)) => match keys.iter().find(|key| is_true(parameters, key)) {
            Some(key) => return Encryption::Known(format!("{provisioner} with {key}=true")),
            None => format!("set its parameter {}: \"true\"", keys.join(" or ")),
        },
        Some(Rule::Linstor) => match linstor(parameters) {
            Some(by) => return Encryption::Known(format!("{provisioner} with {by}")),
            None => "put luks into its layerList".to_owned(),
        },
        None => format!(
            "provisioner {provisioner} is not in the catalogue: if it does encrypt, annotate the class with {ANNOTATION_ENCRYPTED}=\"true\""
        ),
    };
    Encryption::NotKnown(format!("StorageClass {name} is not known to encrypt: {missing}"))
}

fn matches(known: &str, provisioner: &str) -> bool {
    if known.starts_with('.') { provisioner.ends_with(known) } else { provisioner == known }
}

fn is_true(parameters: &BTreeMap<String, String>, key: &str) -> bool {
    parameters.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn linstor(parameters: &BTreeMap<String, String>) -> Option<String> {
    const PREFIX: &str = "linstor.csi.linbit.com/";
    let get = |key: &str| parameters.get(key).or_else(|| parameters.get(&format!("{PREFIX}{key}")));
    if get("encryption").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Some("encryption=true".to_owned());
    }
    let layers = get("layerList")?;
    let luks = layers.split([' ', ',']).any(|layer| layer.eq_ignore_ascii_case("luks"));
    luks.then(|| format!("layerList {layers:?}"))
}

/// Bytes of a Kubernetes quantity, rounded up; `None` for what is none (or is negative).
#[must_use]
pub fn bytes(quantity: &str) -> Option<u64> {
    const UNITS: &[(&str, u128)] = &[
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
    ];
    let unit = UNITS.iter().find_map(|(unit, size)| Some((quantity.strip_suffix(unit)?, *size)));
    // Milli-bytes exist: the API server writes them for fractions.
    let milli = quantity.strip_suffix('m').map(|number| (number, 1, 1000));
    let (number, times, divide) = match (unit, milli) {
        (Some((number, size)), _) => (number, size, 1),
        (None, Some(milli)) => milli,
        (None, None) => (quantity, 1, 1),
    };
    let (number, exponent) = match number.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<u32>().ok().filter(|e| *e <= 18)?),
        None => (number, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) || fraction.len() > 9
    {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let value = value.checked_mul(times)?.checked_mul(10_u128.checked_pow(exponent)?)?;
    u64::try_from(value.div_ceil(scale.checked_mul(divide)?)).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn class(provisioner: &str, parameters: &[(&str, &str)], annotation: Option<&str>) -> StorageClass {
        let mut class = StorageClass { provisioner: provisioner.into(), ..StorageClass::default() };
        class.metadata.name = Some("c".into());
        class.parameters = Some(parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        class.metadata.annotations = annotation.map(|a| [(ANNOTATION_ENCRYPTED.into(), a.into())].into());
        class
    }

    #[test]
    fn only_what_is_known_to_encrypt_is_taken() {
        for (provisioner, parameters, annotation, known) in [
            ("ebs.csi.aws.com", &[("encrypted", "true")][..], None, true),
            ("ebs.csi.aws.com", &[], None, false),
            ("ebs.csi.aws.com", &[("encrypted", "false")], None, false),
            ("ebs.csi.aws.com", &[("encrypted", "true")], Some("false"), false),
            ("pd.csi.storage.gke.io", &[], None, true),
            ("disk.csi.azure.com", &[], None, true),
            ("rook-ceph.rbd.csi.ceph.com", &[("encrypted", "true")], None, true),
            ("rook-ceph.rbd.csi.ceph.com", &[], None, false),
            ("evilrbd.csi.ceph.com", &[("encrypted", "true")], None, false),
            ("driver.longhorn.io", &[("encrypted", "true")], None, true),
            ("pxd.portworx.com", &[("secure", "true")], None, true),
            (
                "linstor.csi.linbit.com",
                &[("linstor.csi.linbit.com/layerList", "drbd luks storage")],
                None,
                true,
            ),
            ("linstor.csi.linbit.com", &[("layerList", "drbd storage")], None, false),
            ("local.csi.openebs.io", &[], None, false),
            ("local.csi.openebs.io", &[], Some("true"), true),
            ("rancher.io/local-path", &[("encrypted", "true")], None, false),
        ] {
            let verdict = encryption(&class(provisioner, parameters, annotation));
            assert_eq!(verdict.is_known(), known, "{provisioner} {parameters:?} {annotation:?}: {verdict:?}");
        }
    }

    #[test]
    fn quantities_are_bytes() {
        for (text, wanted) in [
            ("10Gi", Some(10 << 30)),
            ("1.5Ki", Some(1536)),
            ("500M", Some(500_000_000)),
            ("1e3", Some(1000)),
            ("1500m", Some(2)),
            ("7", Some(7)),
            (".5Gi", Some(1 << 29)),
            ("", None),
            ("-1", None),
            ("Gi", None),
            ("ten", None),
            ("99999999999999999999Ei", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text}");
        }
    }
}
