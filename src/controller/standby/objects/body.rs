//! What of each kind is kept, besides its metadata: fields by name, so that what is not known here
//! (status, and what a later Kubernetes may add) does not cross.

use super::Finding;
use super::kind::Kind;
use super::reserved::reserved_reference;
use super::transform::{Transform, notes};
use crate::api::embassy::ImageMapping;
use crate::api::names::{GROUP, LABEL_MANAGED_BY, MANAGER};
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// All of the object but `apiVersion`, `kind` and `metadata`.
pub(super) fn body(
    kind: Kind,
    name: &str,
    manifest: &Value,
    how: &Transform,
    findings: &mut Vec<Finding>,
) -> Result<Object, Finding> {
    let keep = |fields: &[&str]| -> Object {
        let known = fields.iter().filter_map(|f| Some(((*f).to_owned(), manifest.get(*f)?.clone())));
        known.filter(|(_, value)| !value.is_null()).collect()
    };
    match kind {
        Kind::ConfigMap => Ok(keep(&["data", "binaryData", "immutable"])),
        Kind::Secret => {
            if manifest.get("type").and_then(Value::as_str) == Some("kubernetes.io/service-account-token") {
                // The embassy's cluster would fill it with a token, of whichever account it names.
                let message = "tokens of ServiceAccounts are made by each cluster and not restored";
                return Err(Finding::omitted(kind, name, "TokenSecret", message));
            }
            Ok(keep(&["data", "stringData", "type", "immutable"]))
        }
        // Without `secrets`: those are tokens.
        Kind::ServiceAccount => Ok(keep(&["imagePullSecrets", "automountServiceAccountToken"])),
        Kind::Service => service(name, keep(&["spec"]), findings),
        Kind::Deployment => workload(kind, name, keep(&["spec"]), how, findings),
        Kind::StatefulSet => {
            let mut object = workload(kind, name, keep(&["spec"]), how, findings)?;
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                stateful_set(spec, how);
            }
            Ok(object)
        }
    }
}

fn service(name: &str, mut object: Object, findings: &mut Vec<Finding>) -> Result<Object, Finding> {
    let spec = object
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| Finding::omitted(Kind::Service, name, "Malformed", "it has no spec"))?;
    let headless = spec.get("clusterIP").and_then(Value::as_str) == Some("None");
    for field in ["clusterIP", "clusterIPs", "healthCheckNodePort", "loadBalancerIP", "ipFamilies"] {
        spec.remove(field);
    }
    if headless {
        spec.insert("clusterIP".into(), json!("None"));
    }
    if spec.get("ipFamilyPolicy").and_then(Value::as_str) == Some("RequireDualStack") {
        spec.insert("ipFamilyPolicy".into(), json!("PreferDualStack"));
    }
    // Addresses of home's nodes; abroad they would draw other people's traffic.
    if spec.remove("externalIPs").is_some_and(|ips| ips.as_array().is_some_and(|a| !a.is_empty())) {
        let message = "externalIPs are home's addresses and were left out: set them in the embassy by hand";
        findings.push(Finding::changed(Kind::Service, name, "ExternalIPs", message));
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            port.remove("nodePort");
        }
    }
    Ok(object)
}

fn workload(
    kind: Kind,
    name: &str,
    mut object: Object,
    how: &Transform,
    findings: &mut Vec<Finding>,
) -> Result<Object, Finding> {
    let omitted = |reason, message: &str| Finding::omitted(kind, name, reason, message);
    let spec = object
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| omitted("Malformed", "it has no spec"))?;
    // Set by the caller after the hash.
    spec.remove("replicas");
    // A paused rollout would never start a pod at a promotion.
    spec.remove("paused");
    let template = spec
        .get_mut("template")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| omitted("Malformed", "it has no pod template"))?;
    if claims_to_be_ours(template) {
        let message = "its pods would carry the operator's own labels: take them out of the pod template";
        return Err(omitted("Reserved", message));
    }
    let pod = template
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| omitted("Malformed", "its pod template has no spec"))?;
    for list in ["containers", "initContainers"] {
        for container in pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            map_image(container, &how.images);
        }
    }
    if pod.remove("nodeName").is_some() {
        let message = "nodeName is a node of home and was left out";
        findings.push(Finding::changed(kind, name, "NodeName", message));
    }
    if let Some(reference) = reserved_reference(&Value::Object(pod.clone())) {
        let message = format!("its pods would use `{reference}`, which is the operator's own in the embassy");
        return Err(omitted("ReservedReference", &message));
    }
    Ok(object)
}

/// Pods with the operator's labels could be taken for movers, or for the vault by its Service.
fn claims_to_be_ours(template: &Object) -> bool {
    let labels = template.get("metadata").and_then(|m| m.get("labels")).and_then(Value::as_object);
    labels.into_iter().flatten().any(|(key, value)| {
        key.split_once('/').is_some_and(|(domain, _)| domain == GROUP)
            || (key == LABEL_MANAGED_BY && value.as_str() == Some(MANAGER))
    })
}

fn map_image(container: &mut Value, images: &[ImageMapping]) {
    let Some(image) = container.get("image").and_then(Value::as_str) else { return };
    let rule = images.iter().find_map(|m| image.strip_prefix(m.from.as_str()).map(|rest| (m, rest)));
    let Some((rule, rest)) = rule else { return };
    let mapped = format!("{}{rest}", rule.to);
    if let Some(container) = container.as_object_mut() {
        container.insert("image".into(), Value::String(mapped));
    }
}

fn stateful_set(spec: &mut Object, how: &Transform) {
    // Scaling to zero, or making the StatefulSet anew, must never delete a restored claim.
    let retain = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    spec.insert("persistentVolumeClaimRetentionPolicy".into(), retain);
    for claim in spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(claim) = claim.as_object_mut() else { continue };
        let name = claim.get("metadata").and_then(|m| m.get("name")).cloned().unwrap_or_default();
        let mut metadata = Map::from_iter([("name".to_owned(), name)]);
        for field in ["labels", "annotations"] {
            let kept = notes(claim.get("metadata").and_then(|m| m.get(field)));
            if !kept.is_empty() {
                metadata.insert(field.to_owned(), Value::Object(kept));
            }
        }
        claim.insert("metadata".into(), Value::Object(metadata));
        claim.remove("status");
        if let Some(claim) = claim.get_mut("spec").and_then(Value::as_object_mut) {
            for field in
                ["volumeName", "dataSource", "dataSourceRef", "volumeAttributesClassName", "selector"]
            {
                claim.remove(field);
            }
            claim.insert("storageClassName".into(), json!(how.storage_class_name));
        }
    }
}
