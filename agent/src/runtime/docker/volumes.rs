//! Mounts in Docker's terms, and the volumes in memory that they make. Called by [`super::create`] and the trait.
//!
//! Invariants: a volume is seen and removed only by this cluster's and this node's labels; a path of the host is
//! mounted as it is, never made by the engine.

use std::collections::HashMap;

use bollard::{
    models::{MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig, Volume},
    query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions},
};
use proto::ids::label;

use super::{DockerRuntime, Scope, errors::Problem, observe};
use crate::runtime::{MemoryVolume, Mount, Owner, RuntimeError, Source};

/// One mount of a container of `owner`. The engine makes a volume in memory with its first container.
pub(super) fn mount(mount: &Mount, owner: &Owner, scope: &Scope) -> bollard::models::Mount {
    let bind = |path: &str| bollard::models::Mount {
        typ: Some(MountType::BIND),
        source: Some(path.to_owned()),
        ..Default::default()
    };
    let from = match &mount.source {
        Source::Host { path, .. } => bind(path),
        Source::Directory(path) | Source::File(path) => bind(&path.to_string_lossy()),
        Source::Memory { name, size } => bollard::models::Mount {
            typ: Some(MountType::VOLUME),
            source: Some(name.clone()),
            volume_options: Some(MountVolumeOptions {
                // What the image has at that place is not copied into it.
                no_copy: Some(true),
                labels: Some(labels(owner, scope)),
                driver_config: Some(MountVolumeOptionsDriverConfig {
                    name: Some("local".into()),
                    options: Some(in_memory(*size)),
                }),
                ..Default::default()
            }),
            ..Default::default()
        },
    };
    bollard::models::Mount {
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        ..from
    }
}

fn in_memory(size: Option<u64>) -> HashMap<String, String> {
    let options = match size {
        Some(size) => format!("size={size},mode=1777"),
        None => "mode=1777".to_owned(),
    };
    [("type", "tmpfs"), ("device", "tmpfs"), ("o", &options)]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

fn labels(owner: &Owner, scope: &Scope) -> HashMap<String, String> {
    [
        (label::CLUSTER, &scope.cluster),
        (label::NODE, &scope.node),
        (label::NAMESPACE, &owner.namespace),
        (label::POD, &owner.pod),
        (label::UID, &owner.uid),
    ]
    .map(|(k, v)| (k.to_owned(), v.clone()))
    .into()
}

impl DockerRuntime {
    pub(super) async fn list_volumes(&self) -> Result<Vec<MemoryVolume>, RuntimeError> {
        let filters = HashMap::from([("label", self.scope_labels())]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let call = self.client()?.list_volumes(Some(options));
        let listed = self.call(self.settings.list_timeout, call).await;
        let listed = listed.map_err(|p| p.into_error(&self.endpoint, "list of volumes"))?;
        let volumes = listed.volumes.unwrap_or_default();
        Ok(volumes.into_iter().filter_map(|v| self.own_volume(v)).collect())
    }

    pub(super) async fn remove_volume(&self, name: &str) -> Result<(), RuntimeError> {
        // The engine makes none of another name, and this becomes part of a path.
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Ok(());
        }
        let failed = |p: Problem| p.into_error(&self.endpoint, &format!("remove of volume {name}"));
        let docker = self.client()?;
        let look = docker.inspect_volume(name);
        let seen = match self.call(self.settings.inspect_timeout, look).await {
            Ok(seen) => seen,
            Err(Problem::Said { status: 404, .. }) => return Ok(()),
            Err(problem) => return Err(failed(problem)),
        };
        if self.own_volume(seen).is_none() {
            return Ok(());
        }
        let call = docker.remove_volume(name, None::<RemoveVolumeOptions>);
        match self.call(self.settings.remove_timeout, call).await {
            Ok(()) | Err(Problem::Said { status: 404, .. }) => Ok(()),
            Err(problem) => Err(failed(problem)),
        }
    }

    fn own_volume(&self, volume: Volume) -> Option<MemoryVolume> {
        if !observe::in_scope(&volume.labels, &self.scope) {
            return None;
        }
        Some(MemoryVolume {
            uid: volume.labels.get(label::UID)?.clone(),
            name: volume.name,
        })
    }
}
