//! What is generated is what is committed, and the two copies are one.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::Path;

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn crds_are_those_of_the_types() {
    let wanted = data_embassy::crds::definitions().unwrap();
    for folder in ["crds", "charts/data-embassy-operator/files/crds"] {
        let mut names: Vec<_> = fs::read_dir(root(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let mut expected: Vec<_> = wanted.iter().map(|(name, _)| name.clone()).collect();
        expected.sort();
        assert_eq!(names, expected, "{folder} holds other files: run `make crds`");
        for (name, yaml) in &wanted {
            let found = fs::read_to_string(root(folder).join(name)).unwrap();
            assert!(&found == yaml, "{folder}/{name} is not what the types say: run `make crds`");
        }
    }
}

#[test]
fn crds_survive_an_uninstall() {
    for (name, yaml) in data_embassy::crds::definitions().unwrap() {
        assert!(yaml.contains("helm.sh/resource-policy: keep"), "{name}");
    }
}

/// A quantity, string or list without an upper bound makes CEL rules costly and objects huge.
#[test]
fn every_list_and_text_of_a_spec_has_a_bound() {
    let mut open = Vec::new();
    for (name, yaml) in data_embassy::crds::definitions().unwrap() {
        let crd: serde_json::Value = serde_yaml::from_str(&yaml).unwrap();
        let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
        unbounded(spec, &name, &mut open);
    }
    assert!(open.is_empty(), "{open:#?}");
}

fn unbounded(schema: &serde_json::Value, at: &str, open: &mut Vec<String>) {
    let has = |key: &str| schema.get(key).is_some();
    match schema.get("type").and_then(|kind| kind.as_str()) {
        Some("array") if !has("maxItems") => open.push(format!("{at}: no maxItems")),
        Some("string") if !has("maxLength") && !has("enum") && !has("format") && !has("pattern") => {
            open.push(format!("{at}: no maxLength"));
        }
        _ => {}
    }
    if let Some(items) = schema.get("items") {
        unbounded(items, &format!("{at}[]"), open);
    }
    for (name, inner) in schema.get("properties").and_then(|p| p.as_object()).into_iter().flatten() {
        unbounded(inner, &format!("{at}.{name}"), open);
    }
}
