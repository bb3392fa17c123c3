//! `wharf set image`.
//!
//! Invariant: as in Kubernetes the template changes and running pods stay; the change is made of the version that was
//! looked at.

use proto::model::{Kind, namespace_flag};
use serde_json::{Value, json};

use crate::{
    amend::amend,
    args::SetImageArgs,
    error::Error,
    received::Received,
    select,
    session::Session,
    target::{Reference, Targets},
};

pub async fn run(args: &SetImageArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let (target, images) = parse(&args.words, session)?;
    let object = session.client.get(&target).await?;
    let change = |object: &Received| with_images(object, &images);
    let (before, after) = amend(object, args.dry_run.on, session, change).await?;
    for warning in &after.warnings {
        session.warn(warning);
    }
    if after.same_as(&before) {
        return session.out(&format!("{target} image unchanged\n"));
    }
    session.out(&format!("{target} image updated{}\n", args.dry_run.suffix()))?;
    if !args.dry_run.on {
        session.note(&hint(&after));
    }
    Ok(())
}

/// What brings the template of this controller to the pods that run: an update to the image that it has already.
pub fn hint(object: &Received) -> String {
    let target = object.reference();
    let (name, flag) = (&target.name, namespace_flag(&target.namespace));
    let container = object.json.pointer("/spec/template/spec/containers/0");
    let text = |field: &str| container.and_then(|c| c[field].as_str()).unwrap_or_default().to_owned();
    format!(
        "running pods stay as they are; to replace them step by step: wharf rolling-update {name} --image={} --container={} --image-pull-policy=IfNotPresent{flag}",
        text("image"),
        text("name")
    )
}

/// `rc NAME C=IMG...` or `rc/NAME C=IMG...`.
fn parse(words: &[String], session: &Session<'_>) -> Result<(Reference, Vec<(String, String)>), Error> {
    let usage = || Error::Usage("write `wharf set image rc NAME CONTAINER=IMAGE...`".into());
    let split = words.iter().position(|w| w.contains('=')).ok_or_else(usage)?;
    let (target, changes) = words.split_at(split);
    let Targets::Named(named) = Targets::parse(target)? else {
        return Err(usage());
    };
    let [target] = select::references(named, session).try_into().map_err(|_| usage())?;
    if target.kind != Kind::ReplicationController {
        return Err(Error::Usage(format!(
            "{}: only a replicationcontroller's image can be set; a pod keeps its own for life",
            target.kind.plural()
        )));
    }
    let mut images = Vec::new();
    for word in changes {
        match word.split_once('=') {
            Some((container, image)) if !container.is_empty() && !image.is_empty() => {
                images.push((container.to_owned(), image.to_owned()));
            }
            _ => return Err(Error::Usage(format!("{word:?} is no CONTAINER=IMAGE"))),
        }
    }
    Ok((target, images))
}

/// The patch that sets them; none: they are so. Errors: there is no such container.
fn with_images(object: &Received, images: &[(String, String)]) -> Result<Option<Value>, Error> {
    let path = "/spec/template/spec/containers";
    let there = object.json.pointer(path).and_then(Value::as_array);
    let mut containers = there.cloned().unwrap_or_default();
    let before = containers.clone();
    for (name, image) in images {
        let found = containers.iter_mut().find(|c| c["name"] == json!(name));
        let Some(container) = found else {
            let names: Vec<&str> = before.iter().filter_map(|c| c["name"].as_str()).collect();
            return Err(Error::Refused(format!(
                "{} {:?}: spec.template.spec.containers: there is no container {name:?}; there is {}",
                object.kind.plural(),
                object.name,
                names.join(", ")
            )));
        };
        container["image"] = json!(image);
    }
    Ok((containers != before).then(|| json!({"spec": {"template": {"spec": {"containers": containers}}}})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Received {
        let json = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "app", "image": "web:1"}, {"name": "proxy", "image": "proxy:1"}]}}}});
        Received {
            kind: Kind::ReplicationController,
            namespace: "default".into(),
            name: "web".into(),
            uid: String::new(),
            resource_version: "1".into(),
            json,
            warnings: Vec::new(),
        }
    }

    fn set(images: &[(&str, &str)]) -> Result<Option<Value>, Error> {
        let images: Vec<_> = images.iter().map(|(c, i)| ((*c).to_owned(), (*i).to_owned())).collect();
        with_images(&object(), &images)
    }

    #[test]
    fn only_the_named_containers_change() {
        assert_eq!(
            set(&[("app", "web:2")]).unwrap().unwrap()["spec"]["template"]["spec"]["containers"],
            json!([{"name": "app", "image": "web:2"}, {"name": "proxy", "image": "proxy:1"}])
        );
        assert!(set(&[("app", "web:1")]).unwrap().is_none());
        assert_eq!(
            set(&[("db", "x")]).unwrap_err().to_string(),
            "replicationcontrollers \"web\": spec.template.spec.containers: there is no container \"db\"; there is app, proxy"
        );
    }
}
