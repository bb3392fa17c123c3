//! A Replace: the manifest read as strictly as for a Create, put in the place of the object of its name. Called by
//! `resources` through `write`.
//!
//! Invariant: what the manifest leaves out is removed, unless the coordinator or an agent writes it.

use proto::model::{Kind, Object, Time, validate};

use super::{
    convert::Names,
    create,
    errors::ApiError,
    revise::{Missing, Revision, changeable, revise},
    write::Decision,
};
use crate::world::World;

/// The object as it is wanted.
pub struct Replace {
    object: Object,
    /// What of the manifest has no effect.
    without_effect: Option<String>,
}

impl Replace {
    pub fn new(kind: Kind, names: &Names, json: &[u8]) -> Result<Self, ApiError> {
        changeable(kind, names.shown())?;
        create::check_size(kind, names.shown(), json.len())?;
        let (mut object, without_effect) = create::read(kind, names, json)?;
        if names.name.is_empty() {
            return Err(ApiError::invalid(
                kind,
                names.shown(),
                "metadata.name",
                "required: the object to replace",
            ));
        }
        validate::default(&mut object);
        Ok(Self { object, without_effect })
    }

    /// Whether it may make a hold.
    pub fn holds(&self) -> bool {
        matches!(&self.object, Object::Node(node) if node.spec.unschedulable)
    }

    pub fn decide(&self, world: &World, caller: &str, now: Time) -> Result<Decision, ApiError> {
        let meta = self.object.meta();
        let old = world
            .object(self.object.kind(), &meta.namespace, &meta.name)
            .ok_or_else(|| ApiError::not_found(self.object.kind(), &meta.name))?;
        let revision = Revision {
            caller,
            now,
            missing: Missing::Kept,
            cordon: cordon(&old, &self.object),
        };
        let mut decision = revise(world, &old, self.object.clone(), revision)?;
        decision.warnings.extend(self.without_effect.clone());
        Ok(decision)
    }
}

/// What the manifest of a node says of the caller's cordon: that it is there, or, by false or by silence, that it is
/// not. One that was made from this very version of the node and says the same as that does not speak of it: to edit
/// another field of a node that somebody else cordoned makes no second cordon.
fn cordon(old: &Object, new: &Object) -> Option<bool> {
    let (Object::Node(old), Object::Node(new)) = (old, new) else {
        return None;
    };
    let same = new.spec.unschedulable == old.spec.unschedulable;
    let edited = new.metadata.resource_version == old.metadata.resource_version;
    (!(same && edited)).then_some(new.spec.unschedulable)
}

#[cfg(test)]
#[path = "replace_tests.rs"]
mod tests;
