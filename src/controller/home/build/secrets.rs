//! Home's Secrets: the repository's password and the copy of the vault certificate.

use super::{labels, meta};
use crate::api::names::{
    ANNOTATION_PAIR, CA_CERT, COMPONENT_REPOSITORY, COMPONENT_VAULT_CLIENT, KEYS_SECRET, PASSWORD_KEY,
    TLS_CERT, TLS_KEY, repository_secret, vault_client_secret,
};
use crate::controller::home::observation::Observation;
use base64::Engine as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// The repository's password: 256 random bits. It belongs to nobody: it outlives the DataEmbassy,
/// because the copy abroad does too and is worth nothing without it.
#[must_use]
pub fn repository(seen: &Observation, pair: &str, random: [u8; 32]) -> Secret {
    let password = base64::engine::general_purpose::STANDARD.encode(random);
    Secret {
        metadata: ObjectMeta {
            name: Some(repository_secret(seen.name())),
            namespace: Some(seen.namespace().to_owned()),
            labels: Some(labels(seen, COMPONENT_REPOSITORY)),
            annotations: Some([(ANNOTATION_PAIR.to_owned(), pair.to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([(PASSWORD_KEY.to_owned(), ByteString(password.into_bytes()))].into()),
        ..Secret::default()
    }
}

/// The password in a repository Secret.
#[must_use]
pub fn password(secret: &Secret) -> Option<&[u8]> {
    let found = secret.data.as_ref()?.get(PASSWORD_KEY)?;
    Some(found.0.as_slice()).filter(|p| !p.is_empty())
}

/// DataEmbassies that share this one's pair, this one among them.
#[must_use]
pub fn pair_mates(seen: &Observation) -> Vec<&str> {
    let kubeconfig = &seen.object.spec.embassy.kubeconfig_secret_ref.name;
    let others = seen.siblings.iter().filter(|s| s.kubeconfig == *kubeconfig).map(|s| s.name.as_str());
    others.chain([seen.name()]).collect()
}

/// The first repository Secret that is gone although a copy was made with it: the embassy may hold
/// the only key to that copy, and writing the others would take it away.
#[must_use]
pub fn lost(seen: &Observation, found: &BTreeMap<String, Vec<u8>>) -> Option<String> {
    let copied = |name: &str| match seen.siblings.iter().find(|s| s.name == name) {
        Some(sibling) => sibling.copied,
        None => seen.copied(),
    };
    let gone = |name: &&str| !found.contains_key(*name) && copied(name);
    pair_mates(seen).into_iter().find(gone).map(repository_secret)
}

/// The embassy's Secret with every password of a pair, to be updated as a whole.
#[must_use]
pub fn keys(namespace: &str, passwords: &BTreeMap<String, Vec<u8>>) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(KEYS_SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(passwords.iter().map(|(k, v)| (k.clone(), ByteString(v.clone()))).collect()),
        ..Secret::default()
    }
}

/// Home's copy of its client certificate, with the CA that the mirror's status names.
/// `None` while the embassy's Secret is incomplete.
#[must_use]
pub fn vault_client(
    seen: &Observation,
    theirs: &BTreeMap<String, Vec<u8>>,
    ca_bundle: &str,
) -> Option<Secret> {
    let part = |key: &str| {
        theirs.get(key).filter(|v| !v.is_empty()).map(|v| (key.to_owned(), ByteString(v.clone())))
    };
    let ca = (CA_CERT.to_owned(), ByteString(ca_bundle.as_bytes().to_vec()));
    Some(Secret {
        metadata: meta(seen, &vault_client_secret(seen.name()), COMPONENT_VAULT_CLIENT, None),
        data: Some([part(TLS_CERT)?, part(TLS_KEY)?, ca].into()),
        ..Secret::default()
    })
}

/// Digest of a Secret's content, to tell a change without keeping the content.
#[must_use]
pub fn digest<'a>(data: impl Iterator<Item = (&'a String, &'a [u8])>) -> String {
    let mut hash = Sha256::new();
    for (key, value) in data {
        hash.update((key.len() as u64).to_be_bytes());
        hash.update(key.as_bytes());
        hash.update((value.len() as u64).to_be_bytes());
        hash.update(value);
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::embassy::DispatchStatus;
    use crate::controller::home::observation::{Reach, Sibling};
    use crate::controller::home::testing::observation;

    #[test]
    fn a_lost_password_is_never_made_anew_nor_taken_from_the_embassy() {
        let mut seen = observation();
        seen.repository_secret = false;
        let none = BTreeMap::new();
        // The mirror's word is enough: the embassy holds what was encrypted with it.
        assert_eq!(lost(&seen, &none).as_deref(), Some("register-repository"));
        assert!(!seen.may_make_password());
        if let Some(mirror) = &mut seen.embassy.mirror {
            mirror.status.last_dispatch = None;
        }
        assert!(seen.may_make_password() && lost(&seen, &none).is_none());
        seen.embassy.reach = Reach::Unreachable("x".into());
        assert!(!seen.may_make_password(), "nobody said that nothing is there");
        seen.object.status.get_or_insert_default().last_dispatch = Some(DispatchStatus::default());
        assert!(lost(&seen, &none).is_some());
        // Another one's loss counts too, but only within the pair.
        let found = BTreeMap::from([("register".to_owned(), b"x".to_vec())]);
        let other = |kubeconfig: &str, copied| Sibling {
            name: "land".into(),
            kubeconfig: kubeconfig.into(),
            copied,
            ..Sibling::default()
        };
        for (kubeconfig, copied, expected) in
            [("luxembourg", true, true), ("luxembourg", false, false), ("geneva", true, false)]
        {
            seen.siblings = vec![other(kubeconfig, copied)];
            assert_eq!(lost(&seen, &found).is_some(), expected, "{kubeconfig} {copied}");
        }
    }
}
