//! A Replace: the manifest read as strictly as for a Create, put in the place of the object of its name. Called by
//! `resources` through `write`.
//!
//! Invariant: what the manifest leaves out is removed, unless the coordinator or an agent writes it.

use proto::model::{Kind, Object, validate};

use super::{
    convert::Names,
    create,
    errors::ApiError,
    revise::{Missing, changeable, revise},
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

    pub fn decide(&self, world: &World) -> Result<Decision, ApiError> {
        let meta = self.object.meta();
        let old = world
            .object(self.object.kind(), &meta.namespace, &meta.name)
            .ok_or_else(|| ApiError::not_found(self.object.kind(), &meta.name))?;
        let mut decision = revise(world, &old, self.object.clone(), Missing::Kept)?;
        decision.warnings.extend(self.without_effect.clone());
        Ok(decision)
    }
}

#[cfg(test)]
#[path = "replace_tests.rs"]
mod tests;
