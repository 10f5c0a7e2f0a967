#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use super::*;
use crate::api::duration::Span;
use crate::api::policy::TcpCheck;
use tokio::net::TcpListener;

fn check(name: &str, address: &str) -> HealthCheck {
    HealthCheck {
        name: name.into(),
        http: None,
        tcp: Some(TcpCheck { address: address.into() }),
        period: Span::from(MIN_PERIOD),
        timeout: Span::secs(1),
        failure_threshold: 2,
        success_threshold: 1,
    }
}

async fn until(hub: &ProbeHub, what: &str, holds: impl Fn(&[CheckView]) -> bool) {
    for _ in 0..200 {
        if holds(&hub.view("ns/de")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} never came: {:?}", hub.view("ns/de"));
}

fn all(word: &'static str) -> impl Fn(&[CheckView]) -> bool {
    move |views| !views.is_empty() && views.iter().all(|v| v.verdict.word() == word)
}

#[tokio::test]
async fn a_server_that_falls_and_comes_back() {
    let hub = ProbeHub::default();
    assert!(hub.view("ns/de").is_empty());
    assert!(matches!(suspicion(FailWhen::All, &hub.view("ns/de")), Suspicion::Unknown(_)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let checks = [check("portal", &address.to_string())];
    hub.ensure("ns/de", &checks);
    until(&hub, "health", all("Healthy")).await;
    drop(listener);
    hub.ensure("ns/de", &checks);
    until(&hub, "failure", all("Failed")).await;
    assert!(matches!(suspicion(FailWhen::All, &hub.view("ns/de")), Suspicion::Suspect(_)));
    let _listener = TcpListener::bind(address).await.unwrap();
    until(&hub, "recovery", all("Healthy")).await;
    assert_eq!(hub.view("ns/de")[0].status().state, "Healthy");
}

#[tokio::test]
async fn changed_checks_keep_what_is_known_of_the_others() {
    let hub = ProbeHub::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    hub.ensure("ns/de", &[check("a", &address)]);
    until(&hub, "health", all("Healthy")).await;
    hub.ensure("ns/de", &[check("b", &address), check("a", &address)]);
    let views = hub.view("ns/de");
    assert_eq!(views[0].verdict.word(), "Unknown");
    assert_eq!(views[1].verdict.word(), "Healthy");
    until(&hub, "both", all("Healthy")).await;
    hub.ensure("ns/de", &[]);
    assert!(hub.view("ns/de").is_empty());
}

#[tokio::test]
async fn a_forgotten_task_ends() {
    let hub = ProbeHub::default();
    hub.ensure("ns/de", &[check("a", "127.0.0.1:9")]);
    let task = hub.probers.lock().unwrap()["ns/de"].task.clone();
    hub.forget("ns/de");
    for _ in 0..100 {
        if task.is_finished() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the task lives on");
}
