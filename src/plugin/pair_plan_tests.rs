#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::super::rbac::home_secret;
use super::*;
use kube::api::ObjectMeta;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn fresh() -> (String, SigningKey) {
    ("00000000000000ff".into(), key(1))
}

fn wanted() -> Wanted {
    Wanted {
        home_namespace: "registers".into(),
        embassy_namespace: "estonia".into(),
        secret: "luxembourg".into(),
        lease: LeaseSettings::default(),
        vault: VaultSettings::default(),
        retention_floor: Span::secs(86_400),
    }
}

fn role(name: &str) -> ClusterRole {
    ClusterRole {
        metadata: ObjectMeta {
            name: Some(name.into()),
            annotations: Some([(ANNOTATION_OPERATOR.to_owned(), "system/operator".to_owned())].into()),
            ..ObjectMeta::default()
        },
        ..ClusterRole::default()
    }
}

fn home() -> HomeFound {
    HomeFound { cluster: Some("h".into()), api: true, roles: vec![role("de-home")], ..HomeFound::default() }
}

fn embassy() -> EmbassyFound {
    EmbassyFound {
        cluster: Some("e".into()),
        api: true,
        roles: vec![role("de-embassy")],
        ..EmbassyFound::default()
    }
}

/// A pair that was made up to home's Secret.
fn begun_pair(kubeconfig: Option<&str>) -> (PairRecord, Secret) {
    let record = new_record(&wanted(), "00000000000000aa".into(), &key(2));
    let json = serde_json::to_string(&record).unwrap();
    let secret = home_secret(&record, "luxembourg", &json, &hex::encode([2; 32]), kubeconfig);
    (record, secret)
}

#[test]
fn a_new_pair_takes_the_fresh_id_and_names_the_operators() {
    let plan = decide(&wanted(), &home(), &embassy(), fresh()).unwrap();
    assert_eq!(plan.record.id, "00000000000000ff");
    assert!(!plan.resumed && plan.notes.is_empty());
    plan.record.verifying_key().unwrap();
    assert_eq!(plan.embassy_grant.cluster_role, "de-embassy");
    assert_eq!(plan.home_grant.operator, Account { namespace: "system".into(), name: "operator".into() });
}

#[test]
fn a_failure_halfway_is_resumed_with_the_same_id_and_key() {
    let (record, secret) = begun_pair(None);
    let found = HomeFound { secret: Some(secret), ..home() };
    let before = decide(&wanted(), &found, &embassy(), fresh()).unwrap();
    assert!(before.resumed);
    assert_eq!((before.record.id.as_str(), before.key.to_bytes()), ("00000000000000aa", [2; 32]));
    let there = EmbassyFound { pair: Some(serde_json::to_string(&record).unwrap()), ..embassy() };
    let after = decide(&wanted(), &found, &there, fresh()).unwrap();
    assert_eq!(after.record, record);
}

#[test]
fn a_whole_pair_is_repaired_and_keeps_its_settings() {
    let (record, secret) = begun_pair(Some("kubeconfig"));
    let found = HomeFound { secret: Some(secret), ..home() };
    let there = EmbassyFound {
        pair: Some(serde_json::to_string(&record).unwrap()),
        occupied: vec!["Deployment/embassy-vault".into()],
        ..embassy()
    };
    let other = Wanted { retention_floor: Span::secs(1), ..wanted() };
    let plan = decide(&other, &found, &there, fresh()).unwrap();
    assert_eq!(plan.record, record);
    assert_eq!(plan.notes.len(), 1);
}

#[test]
fn another_pairs_namespace_is_refused_with_both_ways_out() {
    let (record, _) = begun_pair(None);
    for pair in [serde_json::to_string(&record).unwrap(), "{}".to_owned()] {
        let there = EmbassyFound { pair: Some(pair), ..embassy() };
        let refused = decide(&wanted(), &home(), &there, fresh()).unwrap_err();
        assert!(matches!(refused, Refused::Paired { .. }));
        let text = refused.to_string();
        assert!(text.contains("retire") && text.contains("--embassy-namespace"), "{text}");
    }
}

#[test]
fn an_occupied_namespace_is_refused() {
    let there = EmbassyFound { occupied: vec!["Deployment/shop".into()], ..embassy() };
    assert!(matches!(decide(&wanted(), &home(), &there, fresh()), Err(Refused::Occupied(..))));
}

#[test]
fn a_secret_of_something_else_is_never_overwritten() {
    let (_, mut secret) = begun_pair(None);
    secret.data.as_mut().unwrap().remove(PAIR_KEY);
    let found = HomeFound { secret: Some(secret), ..home() };
    assert!(matches!(decide(&wanted(), &found, &embassy(), fresh()), Err(Refused::SecretTaken(_))));
    let (_, secret) = begun_pair(None);
    let found = HomeFound { secret: Some(secret), ..home() };
    let elsewhere = Wanted { embassy_namespace: "latvia".into(), ..wanted() };
    assert!(matches!(decide(&elsewhere, &found, &embassy(), fresh()), Err(Refused::SecretTaken(_))));
}

#[test]
fn a_pair_whose_embassy_is_gone_is_not_revived_under_its_old_id() {
    let (_, secret) = begun_pair(Some("kubeconfig"));
    let found = HomeFound { secret: Some(secret), ..home() };
    assert!(matches!(decide(&wanted(), &found, &embassy(), fresh()), Err(Refused::Orphaned(..))));
}

#[test]
fn the_missing_chart_is_named_with_its_site() {
    let bare = EmbassyFound { roles: vec![], ..embassy() };
    let text = decide(&wanted(), &home(), &bare, fresh()).unwrap_err().to_string();
    assert!(text.contains("Embassy") && text.contains("helm install"), "{text}");
    let twice = HomeFound { roles: vec![role("a"), role("b")], ..home() };
    assert!(matches!(decide(&wanted(), &twice, &embassy(), fresh()), Err(Refused::ChartTwice(..))));
    let mut nameless = role("a");
    nameless.metadata.annotations = None;
    let nameless = HomeFound { roles: vec![nameless], ..home() };
    assert!(matches!(decide(&wanted(), &nameless, &embassy(), fresh()), Err(Refused::ChartAnnotation(..))));
}

#[test]
fn one_namespace_cannot_be_both_sites_and_an_embassy_cannot_be_home() {
    let one = Wanted { embassy_namespace: "registers".into(), ..wanted() };
    let same = EmbassyFound { cluster: Some("h".into()), ..embassy() };
    assert!(matches!(decide(&one, &home(), &same, fresh()), Err(Refused::Same)));
    assert_eq!(decide(&wanted(), &home(), &same, fresh()).unwrap().notes.len(), 1);
    let abroad = HomeFound { is_embassy: true, ..home() };
    assert!(matches!(decide(&wanted(), &abroad, &embassy(), fresh()), Err(Refused::HomeIsEmbassy(_))));
}
