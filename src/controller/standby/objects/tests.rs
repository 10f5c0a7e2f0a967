#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
//! Against an API server of a few lines, in memory.
use super::*;
use crate::api::names::{LABEL_COMPONENT, LABEL_EMBASSY, LABEL_MANAGED_BY, MANAGER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Objects by path, and what was asked.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    log: Vec<String>,
    forbidden: Option<&'static str>,
    immutable: Option<&'static str>,
    users: Vec<String>,
    uids: u32,
}

type Shared = Arc<Mutex<Server>>;

fn client(server: &Shared) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let user = parts.headers.get("impersonate-user").map(|u| u.to_str().unwrap().to_owned());
            let (code, answer) = server.lock().unwrap().answer(&parts.method, parts.uri.path(), &body, user);
            let answer =
                Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap()));
            Ok::<_, std::convert::Infallible>(answer.unwrap())
        }
    });
    Client::new(service, "default")
}

fn status(code: u16, message: &str) -> (StatusCode, Value) {
    let answer = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": message, "reason": if code == 404 { "NotFound" } else { "x" }});
    (StatusCode::from_u16(code).unwrap(), answer)
}

impl Server {
    fn answer(
        &mut self,
        method: &Method,
        path: &str,
        body: &[u8],
        user: Option<String>,
    ) -> (StatusCode, Value) {
        self.users.push(user.unwrap_or_default());
        if method != Method::GET {
            self.log.push(format!("{method} {}", path.rsplit("/ns/").next().unwrap()));
        }
        if self.forbidden.is_some_and(|f| path.contains(f)) {
            return status(403, "secrets is forbidden: no");
        }
        if method == Method::GET && !path.rsplit('/').next().unwrap().contains('-') {
            let items = self.objects.iter().filter(|(p, o)| p.starts_with(path) && standbys(o));
            let items: Vec<_> = items.map(|(_, o)| o.clone()).collect();
            return (
                StatusCode::OK,
                json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}),
            );
        }
        if method == Method::PATCH {
            return self.patch(path, &serde_json::from_slice(body).unwrap());
        }
        let found = if method == Method::DELETE {
            self.objects.remove(path)
        } else {
            self.objects.get(path).cloned()
        };
        found.map_or_else(|| status(404, "not found"), |o| (StatusCode::OK, o))
    }

    fn patch(&mut self, path: &str, patch: &Value) -> (StatusCode, Value) {
        if self.immutable.is_some_and(|i| path.ends_with(i)) && self.objects.contains_key(path) {
            return status(422, "spec.selector: field is immutable");
        }
        self.uids += 1;
        let uid = format!("uid-{}", self.uids);
        let object = self.objects.entry(path.to_owned()).or_insert_with(|| json!({"metadata": {"uid": uid}}));
        json_patch::merge(object, patch);
        (StatusCode::OK, object.clone())
    }
}

fn standbys(object: &Value) -> bool {
    let label = |key: &str| object.pointer("/metadata/labels").and_then(|l| l.get(key)?.as_str());
    label(LABEL_MANAGED_BY) == Some(MANAGER)
        && label(LABEL_COMPONENT) == Some(COMPONENT)
        && label(LABEL_EMBASSY) == Some("de")
}

fn how() -> Transform {
    Transform {
        namespace: "ns".into(),
        images: vec![],
        storage_class_name: "encrypted".into(),
        data_embassy: "de".into(),
        sequence: 1,
    }
}

fn manifests() -> Vec<Value> {
    vec![
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x-secret"}, "data": {"a": "Yg=="}}),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x-portal"},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "x"}},
                "template": {
                    "metadata": {"labels": {"app": "x"}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]},
                },
            },
        }),
    ]
}

const PORTAL: &str = "/apis/apps/v1/namespaces/ns/deployments/x-portal";
const SECRET: &str = "/api/v1/namespaces/ns/secrets/x-secret";

async fn turn(server: &Shared, manifests: &[Value], mode: Mode) -> (Synced, Vec<String>) {
    server.lock().unwrap().log.clear();
    let client = client(server);
    let (desired, findings) = transform(manifests, &how());
    let standby = Standby::new(&client, "ns", "de").unwrap();
    let synced = standby.sync(&desired, findings, mode).await.unwrap();
    (synced, server.lock().unwrap().log.clone())
}

fn replicas(server: &Shared) -> Value {
    server.lock().unwrap().objects[PORTAL]["spec"]["replicas"].clone()
}

#[tokio::test]
async fn applied_once_as_the_restorer_and_pruned_when_gone() {
    let server = Shared::default();
    let (synced, log) = turn(&server, &manifests(), Mode::PilotLight).await;
    assert_eq!(log, ["PATCH secrets/x-secret", "PATCH deployments/x-portal"]);
    assert!(synced.findings.is_empty());
    assert_eq!(synced.written, 2);
    assert_eq!(replicas(&server), 0);
    let users = server.lock().unwrap().users.clone();
    assert!(users.iter().all(|u| u == "system:serviceaccount:ns:embassy-restorer"), "{users:?}");
    let (synced, log) = turn(&server, &manifests(), Mode::PilotLight).await;
    assert!(log.is_empty(), "nothing differs: {log:?}");
    assert_eq!(synced.services[1].ready.as_deref(), Some("0/0"));
    let (_, log) = turn(&server, &manifests()[..1], Mode::Serving).await;
    assert!(log.is_empty(), "while it serves nothing is deleted: {log:?}");
    let (_, log) = turn(&server, &manifests()[..1], Mode::PilotLight).await;
    assert_eq!(log, ["DELETE deployments/x-portal"]);
}

#[tokio::test]
async fn a_pilot_light_is_put_out_and_a_serving_standby_is_left_alone() {
    let server = Shared::default();
    turn(&server, &manifests(), Mode::PilotLight).await;
    let api = client(&server);
    let standby = Standby::new(&api, "ns", "de").unwrap();
    assert!(standby.scale_up().await.unwrap().is_empty());
    assert_eq!(replicas(&server), 2);
    let workloads = readiness::judge(&standby.observe(&WORKLOADS, &[]).await.unwrap()).unwrap();
    assert_eq!((workloads[0].ready, workloads[0].wanted), (0, 2));
    assert!(!all_ready(&workloads));
    server.lock().unwrap().objects.get_mut(PORTAL).unwrap()["status"] =
        json!({"readyReplicas": 2, "updatedReplicas": 2});
    let workloads = readiness::judge(&standby.observe(&WORKLOADS, &[]).await.unwrap()).unwrap();
    assert!(all_ready(&workloads));

    let mut changed = manifests();
    changed[1]["spec"]["replicas"] = json!(5);
    changed[1]["spec"]["template"]["spec"]["containers"][0]["image"] = json!("thief/i");
    let (synced, log) = turn(&server, &changed, Mode::Serving).await;
    assert!(log.is_empty(), "home changes nothing of what serves: {log:?}");
    assert_eq!((synced.findings[0].reason, synced.findings[0].omitted), ("SpecDrift", false));
    assert_eq!(replicas(&server), 2);
    let gone = server.lock().unwrap().objects.remove(SECRET).unwrap();
    let (synced, log) = turn(&server, &manifests(), Mode::Serving).await;
    assert!(log.is_empty(), "{log:?}");
    assert_eq!((synced.findings[0].reason, synced.findings[0].name.as_str()), ("Missing", "x-secret"));
    server.lock().unwrap().objects.insert(SECRET.into(), gone);
    turn(&server, &changed, Mode::PilotLight).await;
    assert_eq!(replicas(&server), 0, "without the writ it is put out although nothing else changed");
    standby.scale_up().await.unwrap();
    assert_eq!(replicas(&server), 5);
    standby.scale_down().await.unwrap();
    assert_eq!(replicas(&server), 0);
}

#[tokio::test]
async fn what_is_not_ours_is_not_touched() {
    let server = Shared::default();
    let admins = json!({"metadata": {"name": "x-secret", "uid": "admin"}, "data": {}});
    server.lock().unwrap().objects.insert(SECRET.into(), admins.clone());
    let (synced, log) = turn(&server, &manifests(), Mode::PilotLight).await;
    assert_eq!(log, ["PATCH deployments/x-portal"]);
    assert_eq!(synced.findings[0].reason, "NotOurs");
    assert!(synced.services[0].message.is_some());
    assert_eq!(server.lock().unwrap().objects[SECRET], admins);
    let (_, log) = turn(&server, &[], Mode::PilotLight).await;
    assert_eq!(log, ["DELETE deployments/x-portal"], "and not pruned either");
}

#[tokio::test]
async fn a_narrowed_role_is_a_finding_with_its_mend() {
    let server = Shared::default();
    server.lock().unwrap().forbidden = Some("/secrets");
    let (synced, log) = turn(&server, &manifests(), Mode::PilotLight).await;
    assert_eq!(log, ["PATCH deployments/x-portal"], "the rest goes on");
    let finding = &synced.findings[0];
    assert_eq!((finding.reason, finding.name.as_str()), ("Forbidden", "x-secret"));
    assert!(
        finding.message.contains("embassy-restorer") && finding.message.contains("secrets"),
        "{finding:?}"
    );
    server.lock().unwrap().forbidden = Some("/deployments");
    let api = client(&server);
    let standby = Standby::new(&api, "ns", "de").unwrap();
    let observed = standby.observe(&WORKLOADS, &[]).await.unwrap();
    assert!(readiness::judge(&observed).is_err(), "no workload seen is not all ready");
}

#[tokio::test]
async fn a_field_that_cannot_change_makes_it_anew_only_while_it_does_not_serve() {
    let server = Shared::default();
    turn(&server, &manifests(), Mode::PilotLight).await;
    server.lock().unwrap().immutable = Some("x-portal");
    let mut changed = manifests();
    changed[1]["spec"]["selector"] = json!({"matchLabels": {"app": "y"}});
    let (_, log) = turn(&server, &changed, Mode::Serving).await;
    assert!(log.is_empty(), "{log:?}");
    let (synced, log) = turn(&server, &changed, Mode::PilotLight).await;
    assert_eq!(log, ["PATCH deployments/x-portal", "DELETE deployments/x-portal"]);
    assert_eq!(synced.findings[0].reason, "Recreated");
    let (synced, log) = turn(&server, &changed, Mode::PilotLight).await;
    assert_eq!(log, ["PATCH deployments/x-portal"]);
    assert!(synced.findings.is_empty());
}

#[tokio::test]
async fn no_manifests_are_no_order_to_delete() {
    let server = Shared::default();
    assert!(super::manifests(&client(&server), "ns", "de").await.unwrap().is_none());
    let path = "/api/v1/namespaces/ns/secrets/de-manifests";
    let empty = json!({"metadata": {"name": "de-manifests", "annotations": {ANNOTATION_SEQUENCE: "3"}}});
    server.lock().unwrap().objects.insert(path.into(), empty);
    assert!(super::manifests(&client(&server), "ns", "de").await.unwrap().is_none());
    assert!(!Synced::default().complete());
}
