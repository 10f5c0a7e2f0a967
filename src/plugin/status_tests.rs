#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::api::conditions::{Wanted, set};
use crate::api::embassy::{DataEmbassySpec, DataEmbassyStatus, DispatchStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn mirror(active: Site) -> DataEmbassy {
    let mut object = DataEmbassy::new("register", DataEmbassySpec::default());
    object.metadata.namespace = Some("estonia".into());
    object.status = Some(DataEmbassyStatus {
        phase: Some(Phase::Protected),
        active_site: Some(active),
        epoch: Some(2),
        last_dispatch: Some(DispatchStatus {
            sequence: 7,
            cut_time: Some(Time(at(1000))),
            proven_time: Some(Time(at(1010))),
            ..DispatchStatus::default()
        }),
        ..DataEmbassyStatus::default()
    });
    object
}

#[test]
fn the_loss_is_counted_from_the_cut_and_only_where_it_would_be_lost() {
    let row_at = |role, active| row(&mirror(active), role, at(1090)).predicted_loss_seconds;
    assert_eq!(row_at(Site::Embassy, Site::Home), Some(90));
    assert_eq!(row_at(Site::Embassy, Site::Embassy), None);
    assert_eq!(row_at(Site::Home, Site::Home), None);
}

#[test]
fn only_what_is_wrong_is_listed_and_unknown_is_wrong() {
    let mut list = Vec::new();
    for wanted in [
        Wanted::yes(types::READY, "Ok", ""),
        Wanted::no(types::STALLED, "Ok", ""),
        Wanted::yes(types::DIVERGENCE_DETECTED, "Forked", "two lineages"),
        Wanted::unknown(types::HOME_REACHABLE, "NoProbe", "no check has run"),
        Wanted::no(types::PROMOTION_ALLOWED, "LeaseNotExpired", "home renews"),
    ] {
        set(&mut list, &wanted, None, at(0));
    }
    let kinds = |phase| problems(&list, Some(phase)).into_iter().map(|p| p.kind).collect::<Vec<_>>();
    assert_eq!(kinds(Phase::Protected), ["DivergenceDetected", "HomeReachable"]);
    assert_eq!(kinds(Phase::PromotionHeld), ["DivergenceDetected", "HomeReachable", "PromotionAllowed"]);
}

#[test]
fn the_table_names_both_parts_and_the_messages_follow() {
    let mut object = mirror(Site::Home);
    let conditions = &mut object.status.as_mut().unwrap().conditions;
    set(conditions, &Wanted::no(types::REPLICA_FRESH, "Stale", "older than 10m"), None, at(0));
    let text = render(&[row(&object, Site::Embassy, at(1090))], at(1090));
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].trim_start().starts_with("NAMESPACE"), "{text}");
    for word in ["estonia", "register", "Embassy", "Protected", "Home", " 7 ", "1m30s ago", "1m20s ago"] {
        assert!(lines[1].contains(word), "{word} in {text}");
    }
    assert_eq!(lines.last().unwrap().trim(), "ReplicaFresh=False Stale: older than 10m");
    assert_eq!(render(&[], at(0)), "no DataEmbassies found");
}

#[test]
fn two_sites_are_asked_where_both_are_given() {
    use clap::Parser as _;
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: StatusArgs,
    }
    let labels = |line: &[&str]| {
        let args = Line::parse_from(["status"].iter().chain(line)).args;
        targets(&args).into_iter().map(|(_, label)| label).collect::<Vec<_>>()
    };
    assert_eq!(labels(&[]), ["the cluster"]);
    assert_eq!(labels(&["--home-context", "h", "--embassy-kubeconfig", "f"]), ["home", "the embassy"]);
    assert_eq!(labels(&["--embassy-context", "e"]), ["the embassy"]);
}
