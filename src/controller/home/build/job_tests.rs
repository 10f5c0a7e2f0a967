#![allow(clippy::unwrap_used)]
use super::*;
use crate::controller::home::testing::{at, observation};

fn order<'a>(mover: &'a MoverSpec, copy_method: CopyMethod) -> Order<'a> {
    Order {
        run: "register-backup-1",
        trigger: "request/now",
        cut_time: at("2026-03-01T12:00:00Z"),
        epoch: 4,
        pair: "p1",
        vault: "198.18.0.2:30443",
        image: "localhost/embassy:test",
        mover,
        copy_method,
        mounts: [("data-0".to_owned(), "tmp-0".to_owned()), ("data-1".to_owned(), "tmp-1".to_owned())].into(),
    }
}

fn pod_of(job: &Job) -> PodSpec {
    job.spec.clone().unwrap().template.spec.unwrap()
}

#[test]
fn the_command_line_is_the_movers() {
    let mover = MoverSpec::default();
    let job = backup(&observation(), &order(&mover, CopyMethod::Snapshot));
    let args = pod_of(&job).containers.first().unwrap().args.clone().unwrap();
    assert_eq!(
        args.join(" "),
        "mover backup --dispatch --repository rest:https://198.18.0.2:30443/register/ \
         --password-file /secrets/repository/password --cacert /secrets/vault-client/ca.crt \
         --client-cert /secrets/vault-client/tls.crt --client-key /secrets/vault-client/tls.key --pair p1 \
         --data-embassy register --manifests /secrets/manifests/manifests.json.gz --epoch 4 \
         --cut-time 2026-03-01T12:00:00Z --signing-key-file /secrets/signing/signing.key \
         --volume data-0=/volumes/data-0 --volume data-1=/volumes/data-1"
    );
    // The mover's own parser takes it.
    use clap::Parser as _;
    let line = ["embassy".to_owned()].into_iter().chain(args);
    crate::cli::Cli::try_parse_from(line).unwrap();
}

#[test]
fn the_mover_runs_as_the_consuming_pods_user_under_restricted() {
    let mover = MoverSpec::default();
    let pod = pod_of(&backup(&observation(), &order(&mover, CopyMethod::Snapshot)));
    let security = pod.security_context.unwrap();
    assert_eq!(security.run_as_user, Some(999));
    assert_eq!(security.run_as_group, Some(998));
    assert_eq!(security.fs_group, Some(997));
    assert_eq!(security.fs_group_change_policy.as_deref(), Some("OnRootMismatch"));
    assert_eq!(security.run_as_non_root, Some(true));
    assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
    let container = pod.containers.first().unwrap().security_context.clone().unwrap();
    assert_eq!(container.allow_privilege_escalation, Some(false));
    assert_eq!(container.capabilities.unwrap().drop.unwrap(), ["ALL"]);
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert!(pod.affinity.is_none());
}

#[test]
fn root_or_nobody_known_becomes_nobody_and_privileged_becomes_root() {
    let mut seen = observation();
    for claim in &mut seen.claims {
        claim.consumer.as_mut().unwrap().run_as_user = Some(0);
    }
    let mover = MoverSpec::default();
    let pod = pod_of(&backup(&seen, &order(&mover, CopyMethod::Snapshot)));
    assert_eq!(pod.security_context.unwrap().run_as_user, Some(65_532));
    let mover = MoverSpec { privileged: true, ..MoverSpec::default() };
    let pod = pod_of(&backup(&seen, &order(&mover, CopyMethod::Snapshot)));
    let security = pod.security_context.unwrap();
    assert_eq!((security.run_as_user, security.run_as_non_root, security.fs_group), (Some(0), None, None));
    let capabilities =
        pod.containers.first().unwrap().security_context.clone().unwrap().capabilities.unwrap();
    assert_eq!(capabilities.add.unwrap(), ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETFCAP", "MKNOD"]);
    let own = PodSecurityContext { run_as_user: Some(5), fs_group: Some(6), ..PodSecurityContext::default() };
    let mover = MoverSpec { security_context: Some(own), ..MoverSpec::default() };
    let security = pod_of(&backup(&seen, &order(&mover, CopyMethod::Snapshot))).security_context.unwrap();
    assert_eq!((security.run_as_user, security.fs_group), (Some(5), Some(6)));
}

#[test]
fn direct_reads_beside_the_pod_that_writes() {
    let mover = MoverSpec::default();
    let pod = pod_of(&backup(&observation(), &order(&mover, CopyMethod::Direct)));
    let terms = pod.affinity.unwrap().node_affinity.unwrap();
    let terms = terms.required_during_scheduling_ignored_during_execution.unwrap().node_selector_terms;
    let field = terms.first().unwrap().match_fields.clone().unwrap().first().unwrap().clone();
    assert_eq!((field.key.as_str(), field.values.unwrap().join(",")), ("metadata.name", "node-a".to_owned()));
    let claims = pod.volumes.unwrap().into_iter().filter_map(|v| v.persistent_volume_claim);
    assert!(claims.into_iter().all(|c| c.read_only == Some(true)));
}

#[test]
fn the_mover_gets_the_signing_key_and_not_the_kubeconfig() {
    let mover = MoverSpec::default();
    let pod = pod_of(&backup(&observation(), &order(&mover, CopyMethod::Snapshot)));
    let volumes = pod.volumes.unwrap();
    let signing = volumes.iter().find(|v| v.name == "signing").unwrap().secret.clone().unwrap();
    assert_eq!(signing.secret_name.as_deref(), Some("luxembourg"));
    let keys: Vec<String> = signing.items.unwrap().into_iter().map(|i| i.key).collect();
    assert_eq!(keys, ["signing.key"]);
}

#[test]
fn a_job_is_tried_once_and_belongs_to_its_embassy() {
    let mover = MoverSpec::default();
    let job = backup(&observation(), &order(&mover, CopyMethod::Snapshot));
    assert_eq!(job.spec.as_ref().unwrap().backoff_limit, Some(0));
    let owner = job.metadata.owner_references.unwrap().first().unwrap().clone();
    assert_eq!(
        (owner.kind.as_str(), owner.uid.as_str(), owner.controller),
        ("DataEmbassy", "uid-1", Some(true))
    );
    assert_eq!(job.metadata.labels.unwrap().get("app.kubernetes.io/component").unwrap(), "backup");
}
