//! `wharf events`: `wharf get events`, with `--for` instead of a field selector.
//!
//! Invariant: shows nothing that `get events` would not.

use proto::model::Kind;

use crate::{
    args::{EventsArgs, GetArgs},
    error::Error,
    get,
    session::Session,
    target::Targets,
};

pub async fn run(args: &EventsArgs, session: &mut Session<'_>) -> Result<(), Error> {
    get::run(&as_get(args)?, session).await
}

fn as_get(args: &EventsArgs) -> Result<GetArgs, Error> {
    let field_selector = match &args.object {
        None => None,
        Some(object) => match Targets::parse(std::slice::from_ref(object))? {
            Targets::Named(named) => named
                .first()
                .map(|(kind, name)| format!("involvedObject.kind={kind},involvedObject.name={name}")),
            Targets::Kinds(_) => return Err(Error::Usage(format!("--for {object}: name one object, as KIND/NAME"))),
        },
    };
    Ok(GetArgs {
        targets: vec![Kind::Event.plural().to_owned()],
        filename: Vec::new(),
        all_namespaces: args.all_namespaces,
        selector: None,
        field_selector,
        node: None,
        sort_by: None,
        label_columns: Vec::new(),
        show_labels: false,
        output: args.output,
        no_headers: args.no_headers,
        ignore_not_found: false,
        watch: args.watch,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &str) -> Result<GetArgs, Error> {
        match Cli::try_parse_from(line.split(' ')).map(|c| c.command) {
            Ok(Command::Events(args)) => as_get(&args),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn events_are_those_of_one_object_or_all() {
        let all = parsed("wharf events -A -w").expect("parses");
        assert_eq!(
            (all.targets, all.all_namespaces, all.watch),
            (vec!["events".to_owned()], true, true)
        );
        assert_eq!(all.field_selector, None);
        let one = parsed("wharf events --for po/web-x2k4p").expect("parses");
        assert_eq!(
            one.field_selector.as_deref(),
            Some("involvedObject.kind=Pod,involvedObject.name=web-x2k4p")
        );
        for bad in ["pods", "pod/", "frob/x"] {
            assert!(parsed(&format!("wharf events --for {bad}")).is_err(), "{bad}");
        }
    }
}
