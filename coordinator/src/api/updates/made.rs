//! The new controller of an update: given, made from the old one with another image, or from an earlier revision.
//! Called by `begin`.
//!
//! Invariant: pure; what is made is told apart from the old one by a label of its own, in selector and template.

use proto::{
    ids,
    model::{ReplicationController, Time, namespace_flag},
};

use super::{
    begin::{KIND, LABEL_KEY, Wanted},
    revisions,
};
use crate::{
    api::errors::ApiError,
    world::{Key, World, record::encode},
};

/// What the cause of an undo begins with; then its number.
pub(super) const UNDO: &str = "undo to revision ";

/// The new controller and how it comes about.
pub(super) struct Made {
    pub controller: ReplicationController,
    pub renames: bool,
    pub target: u32,
    pub cause: String,
    pub warnings: Vec<String>,
}

/// Number of the container of this name, or of the only one. Errors: INVALID_ARGUMENT.
pub(super) fn of_container(rc: &ReplicationController, name: &str) -> Result<usize, ApiError> {
    let containers = &rc.spec.template.spec.containers;
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    let found = match (name, names.len()) {
        ("", 1) => Some(0),
        ("", _) => {
            let what = format!(
                "its pods have several containers; name one: --container={}",
                names.join(" or ")
            );
            return Err(ApiError::invalid(
                KIND,
                &rc.metadata.name,
                "spec.template.spec.containers",
                what,
            ));
        }
        (name, _) => names.iter().position(|n| *n == name),
    };
    found.ok_or_else(|| {
        let what = format!("there is no container {name:?}; there is {}", names.join(", "));
        ApiError::invalid(KIND, &rc.metadata.name, "spec.template.spec.containers", what)
    })
}

/// The new controller as it was asked for. Errors: as of `Updates.Begin` and `Updates.Undo`.
pub(super) fn make(
    world: &World,
    key: &Key,
    old: &ReplicationController,
    wanted: &Wanted,
    now: Time,
) -> Result<Made, ApiError> {
    let from = u32::try_from(old.spec.replicas).unwrap_or(0);
    match wanted {
        Wanted::Given {
            controller,
            own_replicas,
            cause,
            warning,
        } => {
            let given = controller.spec.replicas;
            let mut warnings: Vec<String> = warning.iter().cloned().collect();
            if !own_replicas && given != old.spec.replicas {
                warnings.push(format!(
                    "spec.replicas: {given} in the file is not taken, {} has {}; to take it: --use-file-replicas",
                    key.1, old.spec.replicas
                ));
            }
            Ok(Made {
                controller: (**controller).clone(),
                renames: false,
                target: if *own_replicas {
                    u32::try_from(given).unwrap_or(0)
                } else {
                    from
                },
                cause: cause.clone(),
                warnings,
            })
        }
        Wanted::Image {
            image,
            container,
            pull_policy,
            new_name,
            label_key,
            cause,
        } => {
            let at = of_container(old, container)?;
            let mut controller = stamped(old, now);
            let there = &mut controller.spec.template.spec.containers[at];
            if there.image == *image && pull_policy.is_none() {
                let path = format!("spec.template.spec.containers[{at}].image");
                let what = format!(
                    "container {} has image {image} already; to start its pods anew all the same: --image-pull-policy",
                    there.name
                );
                return Err(ApiError::invalid(KIND, &key.1, &path, what));
            }
            there.image.clone_from(image);
            if pull_policy.is_some() {
                there.image_pull_policy = *pull_policy;
            }
            let hash = told_apart(&mut controller, label_key);
            let renames = new_name.is_empty();
            controller.metadata.name = if renames {
                format!("{}-{hash}", key.1)
            } else {
                new_name.clone()
            };
            Ok(Made {
                controller,
                renames,
                target: from,
                cause: cause.clone(),
                warnings: Vec::new(),
            })
        }
        Wanted::Revision { number } => undone(world, key, *number, from, now),
    }
}

fn undone(world: &World, key: &Key, number: u32, from: u32, now: Time) -> Result<Made, ApiError> {
    let known = revisions(world, key)?.revisions;
    let (present, earlier) = known
        .split_last()
        .ok_or_else(|| ApiError::Internal("a controller without a revision".into()))?;
    let refuse = |what: String| ApiError::in_use(KIND, &key.1, what);
    let found = match number {
        0 => earlier
            .last()
            .ok_or_else(|| refuse("it has no earlier revision to go back to".to_owned()))?,
        n if n == present.number => {
            return Err(refuse(format!(
                "revision {n} is the present one; see: wharf rollout history rc {}{}",
                key.1,
                namespace_flag(&key.0)
            )));
        }
        n => earlier.iter().find(|r| r.number == n).ok_or_else(|| {
            refuse(format!(
                "there is no revision {n} of it; see: wharf rollout history rc {}{}",
                key.1,
                namespace_flag(&key.0)
            ))
        })?,
    };
    let mut controller = stamped(&found.controller, now);
    let renames = controller.metadata.name == key.1;
    if renames {
        let hash = told_apart(&mut controller, LABEL_KEY);
        controller.metadata.name = format!("{}-{hash}", key.1);
    }
    Ok(Made {
        controller,
        renames,
        target: from,
        cause: format!("{UNDO}{}", found.number),
        warnings: Vec::new(),
    })
}

/// A new controller of the same spec.
fn stamped(of: &ReplicationController, now: Time) -> ReplicationController {
    let mut controller = of.clone();
    let meta = &mut controller.metadata;
    meta.uid = uuid::Uuid::new_v4().to_string();
    meta.creation_timestamp = Some(now);
    meta.generation = Some(1);
    meta.resource_version.clear();
    controller.status = None;
    controller
}

/// Gives it a label of its own in selector and template; the label's value.
fn told_apart(controller: &mut ReplicationController, key: &str) -> String {
    // With its uid, so that even the same spec once more is another one.
    let mut bytes = encode(&controller.spec);
    bytes.extend_from_slice(controller.metadata.uid.as_bytes());
    let hash = ids::long_hash(&bytes);
    let spec = &mut controller.spec;
    if spec.selector.is_empty() {
        spec.selector.clone_from(&spec.template.metadata.labels);
    }
    for labels in [&mut spec.selector, &mut spec.template.metadata.labels] {
        labels.insert(key.to_owned(), hash.clone());
    }
    hash
}
