//! The chart by the real helm: lint, values that are refused, and what is rendered.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/data-embassy-operator")
}

fn helm(args: &[&str]) -> Output {
    // Without a cluster helm assumes its own, older version of Kubernetes.
    let version = testbed::cache::KUBERNETES;
    let mut helm = Command::new(testbed::cache::helm().unwrap());
    helm.args(args).arg(chart()).args(["--kube-version", version]).output().unwrap()
}

fn render(sets: &[&str]) -> Vec<Value> {
    let mut args = vec!["template", "r", "--namespace", "data-embassy-system"];
    for set in sets {
        args.extend(["--set", set]);
    }
    let output = helm(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("\n---\n")
        .map(|part| serde_yaml::from_str::<Value>(part).unwrap())
        .filter(|value| !value.is_null())
        .collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn lint_finds_nothing() {
    let output = helm(&["lint", "--strict"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("0 chart(s) failed"), "{text}");
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (set, word) in
        [("replicas=2", "replicas"), ("imgae.tag=x", "imgae"), ("image.digest=md5:1", "digest")]
    {
        let output = helm(&["template", "r", "--set", set]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{set} passed");
        assert!(said.contains(word), "{set}: {said}");
    }
}

#[test]
fn definitions_are_templates_and_stay() {
    let objects = render(&[]);
    let definitions = of_kind(&objects, "CustomResourceDefinition");
    assert_eq!(definitions.len(), 3);
    for definition in definitions {
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    assert!(of_kind(&render(&["crds.install=false"]), "CustomResourceDefinition").is_empty());
}

/// The operator holds no wildcard, no `escalate`, no `bind`, and may impersonate one name only.
#[test]
fn rights_are_the_least() {
    let objects = render(&[]);
    let roles = of_kind(&objects, "ClusterRole").into_iter().chain(of_kind(&objects, "Role"));
    let mut rules = 0;
    for role in roles {
        for rule in role["rules"].as_array().unwrap() {
            rules += 1;
            let list = |key: &str| rule[key].as_array().cloned().unwrap_or_default();
            for word in ["apiGroups", "resources", "verbs"].into_iter().flat_map(list) {
                let word = word.as_str().unwrap().to_owned();
                assert!(!["*", "escalate", "bind"].contains(&word.as_str()), "{rule}");
            }
            if list("verbs").contains(&"impersonate".into()) {
                assert_eq!(rule["resourceNames"], serde_json::json!(["embassy-restorer"]), "{rule}");
            }
        }
    }
    assert!(rules > 10, "only {rules} rules were read");
    // What touches workloads, volumes and Secrets is bound by a pair, never by the chart.
    for binding in of_kind(&objects, "ClusterRoleBinding") {
        let name = binding["roleRef"]["name"].as_str().unwrap();
        let role = of_kind(&objects, "ClusterRole").into_iter().find(|r| r["metadata"]["name"] == name);
        for rule in role.unwrap()["rules"].as_array().unwrap() {
            let resources = rule["resources"].to_string();
            assert!(!resources.contains("secrets"), "bound in the whole cluster: {rule}");
            assert!(!resources.contains("pods"), "bound in the whole cluster: {rule}");
        }
    }
}

#[test]
fn pods_pass_restricted() {
    let objects = render(&[]);
    let pod = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert!(container["resources"]["limits"]["memory"].is_string());
    assert!(pod["hostNetwork"].is_null() && pod["hostPID"].is_null());
}

/// Nothing of a third party runs in what users install.
#[test]
fn every_image_is_ours() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let objects = render(&["image.repository=registry.example/embassy", &format!("image.digest={digest}")]);
    let text = serde_json::to_string(&objects).unwrap();
    let images: Vec<_> =
        text.match_indices("\"image\":\"").map(|(at, key)| &text[at + key.len()..]).collect();
    assert!(!images.is_empty());
    for image in images {
        assert!(image.starts_with(&format!("registry.example/embassy@{digest}\"")), "{image:.90}");
    }
}

/// `kind-config.yaml` by kind's own parser, and a broken one to see that the parser looks.
#[test]
fn kind_reads_its_configuration() {
    let check = testbed::cache::kindcheck().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("kind-config.yaml");
    let output = Command::new(&check).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let broken = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(broken.path(), "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodse: []\n").unwrap();
    assert!(!Command::new(&check).arg(broken.path()).output().unwrap().status.success());
}
