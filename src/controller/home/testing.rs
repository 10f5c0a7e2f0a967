//! An observation in which all is well, for the tests of the pure files.

use super::observation::{
    Claim, Consumer, Embassy, Mirror, MoverJob, Observation, Pairing, Reach, Right, Temporary, TemporaryKind,
    WritView,
};
use super::plan::run_name;
use crate::api::embassy::{
    DataEmbassySpec, DataEmbassyStatus, DispatchStatus, ObjectName, RunState, RunStatus, VaultStatus,
};
use crate::api::pair::{LeaseSettings, PairRecord, VaultSettings};
use crate::api::policy::{ReplicaPolicy, ReplicaPolicySpec, Schedule};
use crate::api::report::MoverReport;
use crate::api::{DataEmbassy, duration::Span};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_default()
}

pub const NOW: &str = "2026-03-01T12:02:00Z";

pub fn pair() -> PairRecord {
    PairRecord {
        version: 1,
        id: "p1".into(),
        home_namespace: "registers".into(),
        embassy_namespace: "estonia".into(),
        signing_public_key: String::new(),
        lease: LeaseSettings::default(),
        vault: VaultSettings::default(),
        retention_floor: Span::secs(60),
    }
}

/// A cron of every five minutes; the last run was at 12:00:00 and is over; now it is 12:02.
pub fn observation() -> Observation {
    let mut policy = ReplicaPolicy::new("policy", ReplicaPolicySpec::default());
    policy.spec.sync.schedule = Some(Schedule { cron: "*/5 * * * *".into(), time_zone: None });
    let selector = LabelSelector {
        match_labels: Some([("app".to_owned(), "x".to_owned())].into()),
        ..LabelSelector::default()
    };
    let mut spec =
        DataEmbassySpec { policy_ref: ObjectName { name: "policy".into() }, ..DataEmbassySpec::default() };
    spec.embassy.kubeconfig_secret_ref.name = "luxembourg".into();
    spec.embassy.namespace = "estonia".into();
    spec.volumes.selector = Some(selector);
    let mut object = DataEmbassy::new("register", spec);
    object.metadata.namespace = Some("registers".into());
    object.metadata.uid = Some("uid-1".into());
    object.metadata.generation = Some(1);
    object.metadata.creation_timestamp = Some(Time(at("2026-03-01T10:00:00Z")));
    object.status = Some(DataEmbassyStatus {
        epoch: Some(0),
        observed_generation: Some(1),
        run: Some(run("schedule/2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z", RunState::Succeeded)),
        ..DataEmbassyStatus::default()
    });
    Observation {
        now: at(NOW),
        object,
        policies: vec![policy],
        pairing: Pairing::Ready(Box::new(pair())),
        claims: vec![claim("data-0"), claim("data-1")],
        workloads: vec![],
        services: vec![],
        siblings: vec![],
        requests: vec![],
        jobs: vec![],
        temporaries: vec![],
        snapshots_supported: true,
        repository_secret: true,
        running_movers: 0,
        partial: false,
        writ: WritView { read: true, epoch: Some(0), right: Right::Granted, alarm: None, last_error: None },
        embassy: embassy(),
    }
}

/// The embassy answers; its newest proven dispatch is 3, cut at 12:00.
fn embassy() -> Embassy {
    Embassy {
        reach: Reach::Reached,
        mirror: Some(Mirror {
            resource_version: "7".into(),
            home_uid: Some("uid-1".into()),
            status: DataEmbassyStatus {
                vault: Some(VaultStatus { address: "198.18.0.2:30443".into(), ca_bundle: "PEM".into() }),
                last_dispatch: Some(DispatchStatus {
                    sequence: 3,
                    cut_time: Some(Time(at("2026-03-01T12:00:00Z"))),
                    ..DispatchStatus::default()
                }),
                ..DataEmbassyStatus::default()
            },
            ..Mirror::default()
        }),
        policy: None,
        vault_client: Some("digest".into()),
    }
}

pub fn claim(name: &str) -> Claim {
    Claim {
        name: name.into(),
        labels: [("app".to_owned(), "x".to_owned())].into(),
        phase: "Bound".into(),
        size: "1Gi".into(),
        access_modes: vec!["ReadWriteOnce".into()],
        storage_class: Some("local".into()),
        consumer: Some(Consumer {
            node: Some("node-a".into()),
            run_as_user: Some(999),
            run_as_group: Some(998),
            fs_group: Some(997),
            ..Consumer::default()
        }),
        ..Claim::default()
    }
}

pub fn run(trigger: &str, start: &str, state: RunState) -> RunStatus {
    RunStatus {
        trigger: trigger.into(),
        attempt: 1,
        cut_time: Some(Time(at(start))),
        start_time: Some(Time(at(start))),
        state: Some(state),
        ..RunStatus::default()
    }
}

/// A run of `trigger` under way since `start`.
pub fn under_way(start: &str) -> Observation {
    let mut seen = observation();
    set_run(&mut seen, run("schedule/2026-03-01T12:00:00Z", start, RunState::Running));
    seen
}

pub fn set_run(seen: &mut Observation, run: RunStatus) {
    seen.object.status.get_or_insert_default().run = Some(run);
}

pub fn name_of(start: &str) -> String {
    run_name("register", at(start))
}

pub fn snapshot(start: &str, source: &str, ready: bool) -> Temporary {
    Temporary {
        kind: TemporaryKind::Snapshot,
        name: format!("snap-{source}"),
        uid: format!("uid-{source}"),
        run: name_of(start),
        source: source.into(),
        ready,
        error: None,
        restore_size: None,
        deleting: false,
    }
}

pub fn job(start: &str, report: Option<MoverReport>) -> MoverJob {
    let good = report.as_ref().is_some_and(|r| r.success);
    MoverJob {
        name: name_of(start),
        uid: "job-uid".into(),
        complete: good,
        failed: (!good).then(|| "BackoffLimitExceeded".to_owned()),
        report,
        ..MoverJob::default()
    }
}
