#![allow(clippy::unwrap_used)]
use super::super::observation::{Right, Sibling};
use super::super::testing::*;
use super::*;
use crate::api::duration::Span;
use crate::api::embassy::DispatchStatus;
use crate::api::policy::{PromotionMode, Schedule};

#[test]
fn all_is_well() {
    assert_eq!(validate(&observation()), []);
}

#[test]
fn every_problem_has_its_reason() {
    type Edit = fn(&mut Observation);
    fn sync(seen: &mut Observation) -> &mut crate::api::policy::SyncSpec {
        &mut seen.policies.first_mut().unwrap().spec.sync
    }
    let table: [(Edit, &str); 20] = [
        (|s| s.policies.clear(), "PolicyNotFound"),
        (|s| s.pairing = Pairing::SecretMissing, "KubeconfigMissing"),
        (|s| s.pairing = Pairing::KeyMissing("kubeconfig".into()), "KubeconfigMissing"),
        (|s| s.pairing = Pairing::KubeconfigInvalid("x".into()), "KubeconfigInvalid"),
        (|s| s.pairing = Pairing::RecordInvalid("x".into()), "PairRecordInvalid"),
        (|s| s.object.spec.embassy.namespace = "other".into(), "WrongNamespace"),
        (|s| s.object.metadata.namespace = Some("other".into()), "WrongNamespace"),
        (|s| s.object.metadata.name = Some("x".repeat(64)), "NameInvalid"),
        (|s| s.object.metadata.name = Some("a.b".into()), "NameInvalid"),
        (|s| s.object.spec.retired = true, "RetiredReserved"),
        (|s| s.pairing = Pairing::KeyMissing("signing.key".into()), "KubeconfigMissing"),
        (|s| sync(s).schedule = Some(Schedule { cron: "x".into(), time_zone: None }), "BadSchedule"),
        (|s| sync(s).interval = Some(Span::secs(1)), "BadSchedule"),
        (
            |s| s.policies.first_mut().unwrap().spec.promotion.fencing.max_pause = Span::secs(60),
            "UnsafeTiming",
        ),
        (|s| s.claims.clear(), "NoVolumes"),
        (|s| s.claims.first_mut().unwrap().phase = "Pending".into(), "VolumeUnbound"),
        (|s| s.claims.first_mut().unwrap().deleting = true, "VolumeNotFound"),
        (|s| s.claims.first_mut().unwrap().block = true, "VolumeUnsupported"),
        (|s| s.snapshots_supported = false, "SnapshotsUnsupported"),
        (
            |s| {
                s.object.spec.volumes.selector = None;
                s.object.spec.volumes.names = vec!["data-0".into(), "gone".into()];
            },
            "VolumeNotFound",
        ),
    ];
    for (edit, expected) in table {
        let mut seen = observation();
        edit(&mut seen);
        let problems = validate(&seen);
        assert_eq!(problems.first().map(|p| p.reason), Some(expected), "{problems:?}");
    }
}

#[test]
fn a_claim_that_was_copied_and_vanished_is_not_forgotten() {
    let mut seen = observation();
    let status = seen.object.status.as_mut().unwrap();
    status.last_dispatch = Some(DispatchStatus::default());
    status.volumes = vec![crate::api::embassy::VolumeStatus {
        name: "data-2".into(),
        claim: Some("data-2".into()),
        phase: None,
    }];
    assert_eq!(validate(&seen).first().map(|p| p.reason), Some("VolumeNotFound"));
    seen.object.metadata.generation = Some(2);
    assert_eq!(validate(&seen), [], "a changed spec says that it is meant");
}

#[test]
fn direct_needs_one_node() {
    let mut seen = observation();
    seen.policies.first_mut().unwrap().spec.sync.copy_method = CopyMethod::Direct;
    assert_eq!(validate(&seen), []);
    seen.claims.first_mut().unwrap().consumer.as_mut().unwrap().node = Some("node-b".into());
    assert_eq!(validate(&seen).first().map(|p| p.reason), Some("VolumesOnDifferentNodes"));
    seen.claims.iter_mut().for_each(|c| c.access_modes = vec!["ReadWriteMany".into()]);
    assert_eq!(validate(&seen), []);
    seen.claims.iter_mut().for_each(|c| c.access_modes = vec!["ReadWriteOncePod".into()]);
    assert_eq!(validate(&seen).first().map(|p| p.reason), Some("VolumeExclusive"));
}

#[test]
fn the_younger_of_two_that_overlap_is_stalled() {
    let mut seen = observation();
    let sibling = |name: &str, created: &str| Sibling {
        name: name.into(),
        created: Some(at(created)),
        policy: "policy".into(),
        volumes: crate::api::embassy::VolumesSpec { selector: None, names: vec!["data-1".into()] },
        services: None,
        kubeconfig: String::new(),
        copied: false,
    };
    let own = "2026-03-01T10:00:00Z";
    for (name, created, overlap) in [
        ("zzz", "2026-03-01T09:00:00Z", true),
        ("aaa", "2026-03-01T11:00:00Z", false),
        ("aaa", own, true),
        ("zzz", own, false),
    ] {
        seen.siblings = vec![sibling(name, created)];
        assert_eq!(validate(&seen).first().map(|p| p.reason) == Some("Overlap"), overlap, "{name} {created}");
    }
    // A copy that never takes over may share.
    seen.siblings = vec![sibling("zzz", "2026-03-01T09:00:00Z")];
    seen.policies.first_mut().unwrap().spec.promotion.mode = PromotionMode::None;
    assert_eq!(validate(&seen), []);
    // What is not known may promote.
    seen.policies.first_mut().unwrap().spec.promotion.mode = PromotionMode::Manual;
    seen.siblings.first_mut().unwrap().policy = "gone".into();
    assert_eq!(validate(&seen).first().map(|p| p.reason), Some("Overlap"));
    seen.writ.right = Right::Granted;
}

#[test]
fn a_key_that_is_nowhere_else_is_restored_and_not_paired_again() {
    for (pairing, pair_mends) in [
        (Pairing::SecretMissing, false),
        (Pairing::KeyMissing("signing.key".into()), false),
        (Pairing::KeyMissing("pair.json".into()), false),
        (Pairing::RecordInvalid("x".into()), false),
        (Pairing::KeyMissing("kubeconfig".into()), true),
        (Pairing::KubeconfigInvalid("x".into()), true),
    ] {
        let mut seen = observation();
        seen.pairing = pairing.clone();
        seen.object.status.as_mut().unwrap().pair = Some("p1".into());
        let problems = validate(&seen);
        let message = &problems.first().unwrap().message;
        assert_eq!(message.contains("run `kubectl embassy pair` again"), pair_mends, "{message}");
        assert_eq!(message.contains("from a backup"), !pair_mends, "{message}");
        // Nothing works by it yet: pairing makes it.
        seen.object.status.as_mut().unwrap().pair = None;
        let problems = validate(&seen);
        assert!(problems.first().unwrap().message.contains("kubectl embassy pair"), "{pairing:?}");
    }
}

#[test]
fn a_lost_password_is_a_problem_with_its_mend() {
    let mut seen = observation();
    assert_eq!(after_asking(&seen), []);
    seen.repository_secret = false;
    let problems = after_asking(&seen);
    let problem = problems.first().unwrap();
    assert_eq!((problem.scope, problem.reason), (Scope::Dispatch, "RepositoryPasswordMissing"));
    for word in ["register-repository", "from a backup", "embassy-keys", "retire"] {
        assert!(problem.message.contains(word), "{}", problem.message);
    }
}
