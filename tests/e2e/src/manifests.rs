//! Manifests of the register and of its DataEmbassy.

use crate::sites::Names;

/// PostgreSQL with one encrypted volume, admitted by PodSecurity `restricted`.
#[must_use]
pub fn register(names: &Names, node_port: u16) -> String {
    let namespace = &names.home;
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: postgres, namespace: {namespace}, labels: {{register: population}}}}
spec:
  type: NodePort
  selector: {{app: postgres}}
  ports: [{{name: postgres, port: 5432, nodePort: {node_port}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: register-settings, namespace: {namespace}, labels: {{register: population}}}}
data: {{motto: "the state lives where its registers live"}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: postgres, namespace: {namespace}, labels: {{register: population}}}}
spec:
  serviceName: postgres
  replicas: 1
  selector: {{matchLabels: {{app: postgres}}}}
  persistentVolumeClaimRetentionPolicy: {{whenScaled: Retain, whenDeleted: Retain}}
  template:
    metadata: {{labels: {{app: postgres}}}}
    spec:
      terminationGracePeriodSeconds: 5
      securityContext:
        runAsNonRoot: true
        runAsUser: 999
        runAsGroup: 999
        fsGroup: 999
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile: {{type: RuntimeDefault}}
      containers:
      - name: postgres
        image: localhost/postgres:test
        imagePullPolicy: Never
        envFrom: [{{configMapRef: {{name: register-settings}}}}]
        ports: [{{containerPort: 5432}}]
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
        readinessProbe:
          exec: {{command: [psql, -qAtc, "select 1"]}}
          periodSeconds: 1
          failureThreshold: 1
          timeoutSeconds: 3
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data, labels: {{register: population}}}}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: encrypted
      resources: {{requests: {{storage: 512Mi}}}}
"#
    )
}

/// A small service for tests that need no database: it appends a line every second and flushes it.
/// Its first line is `marker`.
#[must_use]
pub fn notes(names: &Names, marker: &str, class: &str) -> String {
    let namespace = &names.home;
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: notes, namespace: {namespace}, labels: {{register: population}}}}
spec:
  serviceName: notes
  replicas: 1
  selector: {{matchLabels: {{app: notes}}}}
  persistentVolumeClaimRetentionPolicy: {{whenScaled: Retain, whenDeleted: Retain}}
  template:
    metadata: {{labels: {{app: notes}}}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext:
        runAsNonRoot: true
        runAsUser: 1000
        runAsGroup: 1000
        fsGroup: 1000
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile: {{type: RuntimeDefault}}
      containers:
      - name: notes
        image: localhost/busybox:test
        imagePullPolicy: Never
        command: [sh, -c, "test -s /data/notes || echo '{marker}' > /data/notes; while :; do read up rest < /proc/uptime; echo $up >> /data/notes; sync; sleep 1; done"]
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data, labels: {{register: population}}}}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: {class}
      resources: {{requests: {{storage: 64Mi}}}}
"#
    )
}

/// What a DataEmbassy of the tests is like.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// `Automatic`, `Manual` or `None`.
    pub mode: &'static str,
    /// `Embassy` or `Home`.
    pub arbiter: &'static str,
    /// StorageClass in the embassy.
    pub storage_class: String,
    /// `interval: 10s` or `schedule: {...}`, or empty.
    pub when: String,
    /// `maxDataLoss`.
    pub max_data_loss: &'static str,
    /// PVC names instead of the selector.
    pub volumes: Option<Vec<String>>,
    /// Quota of the vault.
    pub quota: Option<String>,
    /// Accept the fence `Scale`.
    pub accept_unproven_fence: bool,
    /// Address of the health check; the embassy's prober connects to it.
    pub health: Option<String>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            mode: "Automatic",
            arbiter: "Embassy",
            storage_class: "encrypted".to_owned(),
            when: "interval: 10s".to_owned(),
            max_data_loss: "1h",
            volumes: None,
            quota: None,
            accept_unproven_fence: true,
            health: None,
        }
    }
}

/// ReplicaPolicy and DataEmbassy of the register.
#[must_use]
pub fn data_embassy(names: &Names, wanted: &Wanted) -> String {
    let Names { home, embassy, secret, name } = names;
    let Wanted { mode, arbiter, storage_class, when, max_data_loss, accept_unproven_fence, .. } = wanted;
    let volumes = match &wanted.volumes {
        Some(list) => format!("{{names: [{}]}}", list.join(", ")),
        None => "{selector: {matchLabels: {register: population}}}".to_owned(),
    };
    let checks = wanted.health.as_ref().map_or_else(String::new, |address| {
        format!(
            r#"healthChecks:
  - {{name: service, tcp: {{address: "{address}"}}, period: 2s, timeout: 1s, failureThreshold: 2, successThreshold: 2}}"#
        )
    });
    let vault = wanted.quota.as_ref().map(|q| format!("quota: {q}")).unwrap_or_default();
    format!(
        r#"
apiVersion: dataembassy.io/v1alpha1
kind: ReplicaPolicy
metadata: {{name: {name}, namespace: {home}}}
spec:
  sync:
    {when}
    recoveryPointObjective: 2m
    copyMethod: Snapshot
  encryption: {{atRest: Required, keyCustody: Entrusted}}
  {checks}
  promotion:
    mode: {mode}
    stabilization: 5s
    maxDataLoss: {max_data_loss}
    cooldown: 1m
    fence: Scale
    acceptUnprovenFence: {accept_unproven_fence}
---
apiVersion: dataembassy.io/v1alpha1
kind: DataEmbassy
metadata: {{name: {name}, namespace: {home}}}
spec:
  policyRef: {{name: {name}}}
  embassy:
    kubeconfigSecretRef: {{name: {secret}}}
    namespace: {embassy}
    storageClassName: {storage_class}
    arbiter: {arbiter}
  volumes: {volumes}
  services: {{selector: {{matchLabels: {{register: population}}}}}}
  vault: {{{vault}}}
"#
    )
}
