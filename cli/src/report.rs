//! What a command that writes says of each object: a line, or with `-o` the objects themselves at the end. Used by
//! apply, create, replace, patch, label and annotate.
//!
//! Invariant: what was written is shown even when a later object fails for good.

use serde_json::Value;

use crate::{
    args::DryRun,
    error::{Error, Refusals},
    output::{self, ObjectFormat},
    received::Received,
    session::Session,
};

pub struct Report {
    output: Option<ObjectFormat>,
    dry_run: DryRun,
    objects: Vec<Received>,
    refusals: Refusals,
}

impl Report {
    pub fn new(output: Option<ObjectFormat>, dry_run: DryRun) -> Self {
        Self {
            output,
            dry_run,
            objects: Vec::new(),
            refusals: Refusals::default(),
        }
    }

    /// Takes the object as it is after the write and the word for what became of it. False: the command ends now, by
    /// [`Report::finish`], since what went wrong concerns all that would follow.
    pub fn take(&mut self, result: Result<(Received, &str), Error>, session: &mut Session<'_>) -> Result<bool, Error> {
        let (object, word) = match result {
            Ok(done) => done,
            Err(e) => {
                let goes_on = e.is_refusal();
                self.refusals.push(e);
                return Ok(goes_on);
            }
        };
        for warning in &object.warnings {
            session.warn(&format!("{}: {warning}", output::name(&object)));
        }
        if self.output.is_none() {
            session.out(&format!("{} {word}{}\n", output::name(&object), self.dry_run.suffix()))?;
        }
        self.objects.push(object);
        Ok(true)
    }

    /// The objects, for `-o`; then what was refused.
    pub fn finish(self, session: &mut Session<'_>) -> Result<(), Error> {
        let value: Option<Value> = match &self.objects[..] {
            [] => None,
            [one] => Some(one.json.clone()),
            several => Some(output::list(several, None)),
        };
        match (self.output, value) {
            (None, _) | (_, None) => {}
            (Some(ObjectFormat::Json), Some(value)) => session.out(&output::json(&value))?,
            (Some(ObjectFormat::Yaml), Some(value)) => session.out(&output::yaml(&value)?)?,
            (Some(ObjectFormat::Name), Some(_)) => {
                let names: String = self.objects.iter().map(|o| output::name(o) + "\n").collect();
                session.out(&names)?;
            }
        }
        self.refusals.finish()
    }
}
