//! The fields of a pod's spec and of all in it. Used by [`super::table`].
//! Source: Kubernetes' API reference, core/v1, 1.20 to 1.33.

use serde_json::{Value, json};

use super::{Field, Fields, says_nothing, table_placement};

pub(super) const SPEC: Fields = &[
    Field::items("containers", CONTAINER, &["name"]),
    Field::acted("restartPolicy"),
    Field::acted("terminationGracePeriodSeconds"),
    Field::acted("nodeName"),
    Field::map("nodeSelector"),
    Field::acted("hostNetwork"),
    Field::items("volumes", VOLUME, &["name"]),
    Field::object("securityContext", POD_SECURITY),
    Field::object("affinity", table_placement::AFFINITY),
    Field::items(
        "topologySpreadConstraints",
        table_placement::SPREAD,
        &["topologyKey", "whenUnsatisfiable"],
    ),
    Field::items("tolerations", table_placement::TOLERATION, &[]),
    Field::unsupported("initContainers").keyed(&["name"]),
    Field::unsupported("ephemeralContainers").keyed(&["name"]),
    Field::refused("activeDeadlineSeconds"),
    // Resolving is the engine's.
    Field::idle_if("dnsPolicy", |v| v == "ClusterFirst" || v == "Default"),
    Field::unsupported("dnsConfig"),
    // No pod has a token of an account.
    Field::idle_if("serviceAccountName", default_account),
    Field::idle_if("serviceAccount", default_account),
    Field::unsupported("automountServiceAccountToken"),
    Field::unsupported("hostPID"),
    Field::unsupported("hostIPC"),
    Field::idle_if("hostUsers", |v| *v == true),
    Field::unsupported("shareProcessNamespace"),
    Field::unsupported("imagePullSecrets").keyed(&["name"]),
    Field::unsupported("hostname"),
    Field::unsupported("subdomain"),
    Field::unsupported("setHostnameAsFQDN"),
    Field::unsupported("hostnameOverride"),
    Field::unsupported("hostAliases").keyed(&["ip"]),
    Field::idle_if("schedulerName", |v| v == "default-scheduler" || says_nothing(v)),
    Field::unsupported("priorityClassName"),
    Field::idle_if("priority", |v| *v == 0),
    // Nothing preempts anything.
    Field::idle("preemptionPolicy"),
    Field::unsupported("readinessGates"),
    Field::unsupported("schedulingGates").keyed(&["name"]),
    Field::unsupported("runtimeClassName"),
    // There are no Services whose addresses could be put into the environment.
    Field::idle("enableServiceLinks"),
    Field::unsupported("overhead"),
    Field::idle_if("os", |v| v["name"] == "linux" || says_nothing(v)),
    Field::unsupported("resources"),
    Field::unsupported("resourceClaims").keyed(&["name"]),
];

const CONTAINER: Fields = &[
    Field::acted("name"),
    Field::acted("image"),
    Field::acted("imagePullPolicy"),
    Field::list("command"),
    Field::list("args"),
    Field::items("env", ENV, &["name"]),
    Field::items("ports", PORT, &["containerPort", "protocol"]),
    Field::object(
        "resources",
        &[
            Field::map("requests"),
            Field::map("limits"),
            Field::unsupported("claims").keyed(&["name"]),
        ],
    ),
    Field::acted("workingDir"),
    Field::items("volumeMounts", MOUNT, &["mountPath"]),
    Field::object("securityContext", SECURITY),
    Field::acted("terminationMessagePath"),
    Field::acted("terminationMessagePolicy"),
    Field::unsupported("envFrom"),
    Field::unsupported("volumeDevices").keyed(&["devicePath"]),
    Field::refused("livenessProbe"),
    Field::refused("readinessProbe"),
    Field::refused("startupProbe"),
    Field::unsupported("lifecycle"),
    Field::unsupported("restartPolicy"),
    Field::unsupported("restartPolicyRules"),
    // No container is resized in place.
    Field::idle("resizePolicy"),
    Field::unsupported("stdin"),
    Field::unsupported("stdinOnce"),
    Field::unsupported("tty"),
];

const ENV: Fields = &[
    Field::acted("name"),
    Field::acted("value"),
    Field::object(
        "valueFrom",
        &[
            Field::object("fieldRef", &[Field::acted("apiVersion"), Field::acted("fieldPath")]),
            Field::refused("resourceFieldRef"),
            Field::refused("configMapKeyRef"),
            Field::refused("secretKeyRef"),
            Field::refused("fileKeyRef"),
        ],
    ),
];

const PORT: Fields = &[
    Field::acted("name"),
    Field::acted("containerPort"),
    Field::acted("hostPort"),
    Field::acted("hostIP"),
    Field::acted("protocol"),
];

const VOLUME: Fields = &[
    Field::acted("name"),
    Field::object("emptyDir", &[Field::acted("medium"), Field::acted("sizeLimit")]),
    Field::object("hostPath", &[Field::acted("path"), Field::acted("type")]),
    Field::refused("awsElasticBlockStore"),
    Field::refused("azureDisk"),
    Field::refused("azureFile"),
    Field::refused("cephfs"),
    Field::refused("cinder"),
    Field::refused("configMap"),
    Field::refused("csi"),
    Field::refused("downwardAPI"),
    Field::refused("ephemeral"),
    Field::refused("fc"),
    Field::refused("flexVolume"),
    Field::refused("flocker"),
    Field::refused("gcePersistentDisk"),
    Field::refused("gitRepo"),
    Field::refused("glusterfs"),
    Field::refused("image"),
    Field::refused("iscsi"),
    Field::refused("nfs"),
    Field::refused("persistentVolumeClaim"),
    Field::refused("photonPersistentDisk"),
    Field::refused("portworxVolume"),
    Field::refused("projected"),
    Field::refused("quobyte"),
    Field::refused("rbd"),
    Field::refused("scaleIO"),
    Field::refused("secret"),
    Field::refused("storageos"),
    Field::refused("vsphereVolume"),
];

const MOUNT: Fields = &[
    Field::acted("name"),
    Field::acted("mountPath"),
    Field::acted("readOnly"),
    Field::idle_if("recursiveReadOnly", |v| v == "Disabled"),
    Field::idle_if("mountPropagation", |v| v == "None"),
    Field::unsupported("subPath"),
    Field::unsupported("subPathExpr"),
];

const POD_SECURITY: Fields = &[
    Field::acted("runAsUser"),
    Field::acted("runAsGroup"),
    Field::acted("runAsNonRoot"),
    Field::list("supplementalGroups"),
    Field::idle_if("supplementalGroupsPolicy", |v| v == "Merge"),
    Field::refused("fsGroup"),
    // How fsGroup is applied, which is refused.
    Field::idle("fsGroupChangePolicy"),
    Field::idle_if("seccompProfile", engine_default),
    Field::idle_if("appArmorProfile", engine_default),
    Field::unsupported("seLinuxOptions"),
    Field::unsupported("seLinuxChangePolicy"),
    Field::unsupported("sysctls"),
    Field::unsupported("windowsOptions"),
];

const SECURITY: Fields = &[
    Field::acted("runAsUser"),
    Field::acted("runAsGroup"),
    Field::acted("runAsNonRoot"),
    Field::acted("readOnlyRootFilesystem"),
    Field::acted("allowPrivilegeEscalation"),
    Field::object("capabilities", &[Field::list("add"), Field::list("drop")]),
    Field::unsupported("privileged"),
    Field::idle_if("procMount", |v| v == "Default"),
    Field::idle_if("seccompProfile", engine_default),
    Field::idle_if("appArmorProfile", engine_default),
    Field::unsupported("seLinuxOptions"),
    Field::unsupported("windowsOptions"),
];

fn default_account(value: &Value) -> bool {
    value == "default" || says_nothing(value)
}

/// The profile that the engine applies anyway.
fn engine_default(profile: &Value) -> bool {
    says_nothing(profile) || *profile == json!({"type": "RuntimeDefault"})
}
