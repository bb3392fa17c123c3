//! `wharf token`.
//!
//! Invariant: the token's text goes to stdout and nowhere else.

use std::time::Duration;

use proto::{
    model::{Time, labels::check_dns_subdomain},
    wire,
};
use serde_json::{Value, json};

use crate::{
    age,
    args::{TokenCreateArgs, TokenListArgs, TokenRevokeArgs},
    error::{Error, Refusals},
    output::{self, Format, ObjectFormat, or_none, pairs},
    session::Session,
    table,
};

/// Where the printed command keeps the agent's data, and the coordinator's.
const DATA_DIR: &str = "/var/lib/wharf-agent";
const COORDINATOR_DIR: &str = "/var/lib/wharf";

/// The role of a token by which another coordinator joins.
const COORDINATOR: &str = "coordinator";

pub async fn create(args: &TokenCreateArgs, session: &mut Session<'_>) -> Result<(), Error> {
    if args.uses == 0 {
        return Err(Error::Usage("--uses: at least 1".into()));
    }
    if args.ttl < Duration::from_secs(1) {
        return Err(Error::Usage("--ttl: at least 1s".into()));
    }
    if let Some(node) = &args.node {
        check_dns_subdomain(node).map_err(|e| Error::Usage(format!("--node: {e}")))?;
    }
    if args.role == COORDINATOR {
        for (flag, given) in [("label", !args.label.is_empty()), ("node", args.node.is_some())] {
            if given {
                return Err(Error::Usage(format!("--{flag}: a coordinator has none; leave it out")));
            }
        }
    }
    if let Some(address) = args.coordinators.iter().find(|a| !is_address(a)) {
        return Err(Error::Usage(format!(
            "--coordinators: {address:?} is not HOST:PORT, as in c1.example:7443"
        )));
    }
    let request = wire::CreateTokenRequest {
        role: args.role.clone(),
        uses: args.uses,
        ttl_seconds: args.ttl.as_secs(),
        labels: args.label.iter().cloned().collect(),
        node: args.node.clone().unwrap_or_default(),
        dry_run: args.dry_run.on,
    };
    let reply = session.client.create_token(&request).await?;
    let token = reply.token.unwrap_or_default();
    if args.dry_run.on {
        return match args.output {
            Some(ObjectFormat::Json) => session.out(&output::json(&object(&token))),
            Some(ObjectFormat::Yaml) => session.out(&output::yaml(&object(&token))?),
            // There is no text to print: no token was made.
            Some(ObjectFormat::Name) | None => session.out("token created (dry run)\n"),
        };
    }
    let coordinators = if args.coordinators.is_empty() {
        reply.coordinators
    } else {
        args.coordinators.clone()
    };
    let replica = token.role == COORDINATOR;
    let command = if replica {
        let peers = if args.coordinators.is_empty() {
            reply.enrol
        } else {
            Vec::new()
        };
        replica_command(&coordinators, &peers, &reply.text)?
    } else {
        join_command(&coordinators, &reply.enrol, &token.node, &reply.text)?
    };
    let mut object = object(&token);
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.insert("token".to_owned(), json!(reply.text));
        status.insert("coordinators".to_owned(), json!(coordinators));
        status.insert("joinCommand".to_owned(), json!(command));
    }
    match args.output {
        _ if args.quiet => return session.out(&format!("{}\n", reply.text)),
        Some(ObjectFormat::Name) => return session.out(&format!("{}\n", reply.text)),
        Some(ObjectFormat::Json) => return session.out(&output::json(&object)),
        Some(ObjectFormat::Yaml) => return session.out(&output::yaml(&object)?),
        None => session.out(&format!("{command}\n"))?,
    }
    let what = if replica { "coordinator" } else { "host" };
    let uses = match token.max_uses {
        1 => format!("one {what}"),
        n => format!("{n} {what}s"),
    };
    let life = age::duration(args.ttl.as_secs());
    session.note(&format!(
        "token {}: for {uses}, expires in {life}; run the command on the new {}",
        token.id,
        if replica { "coordinator's host" } else { "host" }
    ));
    Ok(())
}

fn plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '[' | ']'))
}

/// What comes from the coordinator is checked, since the command ends in a root shell.
fn check_plain(coordinators: &[String], enrol: &[String], token: &str) -> Result<(), Error> {
    let address = |text: &String| plain(text) && is_address(text);
    if coordinators.is_empty() || !coordinators.iter().chain(enrol).all(address) {
        return Err(Error::Refused(format!(
            "coordinators: {coordinators:?} are not HOST:PORT; give --coordinators"
        )));
    }
    if !plain(token) {
        return Err(Error::Refused("the coordinator sent a damaged token; try again".into()));
    }
    Ok(())
}

/// The whole command for another coordinator's host. Joining is on the port after each session port unless stated.
fn replica_command(coordinators: &[String], enrol: &[String], token: &str) -> Result<String, Error> {
    check_plain(coordinators, enrol, token)?;
    let next = |address: &String| {
        let (host, port) = address.rsplit_once(':')?;
        Some(format!("{host}:{}", port.parse::<u16>().ok()?.checked_add(1)?))
    };
    let peers = if enrol.is_empty() {
        coordinators.iter().filter_map(next).collect()
    } else {
        enrol.to_vec()
    };
    if peers.is_empty() {
        return Err(Error::Refused(format!(
            "coordinators: {coordinators:?} have no port after them for joining; give --coordinators"
        )));
    }
    Ok(format!(
        "wharf-coordinator join --data-dir {COORDINATOR_DIR} --peers {} --token {token}",
        peers.join(",")
    ))
}

/// The whole command for the new host.
fn join_command(coordinators: &[String], enrol: &[String], node: &str, token: &str) -> Result<String, Error> {
    check_plain(coordinators, enrol, token)?;
    if !(node.is_empty() || plain(node)) {
        return Err(Error::Refused("the coordinator sent a damaged token; try again".into()));
    }
    let name = if node.is_empty() {
        String::new()
    } else {
        format!(" --name {node}")
    };
    let joining = if enrol.is_empty() {
        String::new()
    } else {
        format!(" --enrol {}", enrol.join(","))
    };
    Ok(format!(
        "wharf-agent run --data-dir {DATA_DIR} --coordinators {}{joining}{name} --token {token}",
        coordinators.join(",")
    ))
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

pub async fn list(args: &TokenListArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let tokens = session.client.list_tokens().await?;
    let objects = || {
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""},
        "items": tokens.iter().map(object).collect::<Vec<_>>()})
    };
    let wide = match args.output {
        Some(Format::Json) => return session.out(&output::json(&objects())),
        Some(Format::Yaml) => return session.out(&output::yaml(&objects())?),
        Some(Format::Name) => {
            let names: String = tokens.iter().map(|t| format!("token/{}\n", t.id)).collect();
            return session.out(&names);
        }
        Some(Format::Wide) => true,
        None => false,
    };
    if tokens.is_empty() {
        session.note("No tokens found");
        return Ok(());
    }
    let now = session.now();
    let text = token_table(&tokens, wide, now);
    session.out(&text)
}

fn token_table(tokens: &[wire::Token], wide: bool, now: Time) -> String {
    let mut header = vec!["ID", "ROLE", "STATUS", "USED", "EXPIRES", "NODE", "LABELS"];
    if wide {
        header.extend(["CREATOR", "JOINED"]);
    }
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .map(|t| {
            let expires = time(t.expires_at);
            let expired = expires <= now;
            let status = match t {
                t if t.revoked => "Revoked",
                t if t.used >= t.max_uses => "Spent",
                _ if expired => "Expired",
                _ => "Valid",
            };
            let expires = if expired {
                format!("{} ago", age::duration(now.since(expires)))
            } else {
                format!("in {}", age::duration(expires.since(now)))
            };
            let labels: std::collections::BTreeMap<_, _> = t.labels.iter().collect();
            let mut row = vec![
                t.id.clone(),
                t.role.clone(),
                status.to_owned(),
                format!("{}/{}", t.used, t.max_uses),
                expires,
                or_none(t.node.clone()),
                pairs(labels),
            ];
            if wide {
                row.extend([or_none(t.creator.clone()), or_none(t.nodes.join(","))]);
            }
            row
        })
        .collect();
    table::table(&header, &rows)
}

fn time(seconds: u64) -> Time {
    Time(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Shaped as all objects are; without the secret.
fn object(token: &wire::Token) -> Value {
    let labels: std::collections::BTreeMap<_, _> = token.labels.iter().collect();
    json!({
        "apiVersion": "wharfinger.io/v1",
        "kind": "Token",
        "metadata": {"name": token.id, "creationTimestamp": time(token.created_at)},
        "spec": {
            "role": token.role,
            "uses": token.max_uses,
            "expiresAt": time(token.expires_at),
            "labels": labels,
            "node": token.node,
        },
        "status": {
            "used": token.used,
            "revoked": token.revoked,
            "nodes": token.nodes,
            "creator": token.creator,
        },
    })
}

pub async fn revoke(args: &TokenRevokeArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut refusals = Refusals::default();
    for id in &args.ids {
        let result = session.client.revoke_token(id, args.dry_run.on).await;
        if refusals.keep(result)?.is_some() {
            session.out(&format!("token/{id} revoked{}\n", args.dry_run.suffix()))?;
        }
    }
    refusals.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_each_token_is_seen() {
        let token = |id: &str, used, expires_at, revoked| wire::Token {
            id: id.to_owned(),
            role: "agent".to_owned(),
            max_uses: 2,
            used,
            expires_at,
            revoked,
            creator: "user/admin".to_owned(),
            ..wire::Token::default()
        };
        let mut labelled = token("aaa", 1, 4600, false);
        labelled.labels.insert("zone".into(), "north".into());
        labelled.nodes.push("n1".into());
        let tokens = [
            labelled,
            token("bbb", 2, 4600, false),
            token("ccc", 0, 1000, false),
            token("ddd", 0, 4600, true),
        ];
        insta::assert_snapshot!(token_table(&tokens, true, Time(1060)), @r"
        ID    ROLE    STATUS    USED   EXPIRES   NODE     LABELS       CREATOR      JOINED
        aaa   agent   Valid     1/2    in 59m    <none>   zone=north   user/admin   n1
        bbb   agent   Spent     2/2    in 59m    <none>   <none>       user/admin   <none>
        ccc   agent   Expired   0/2    60s ago   <none>   <none>       user/admin   <none>
        ddd   agent   Revoked   0/2    in 59m    <none>   <none>       user/admin   <none>
        ");
    }

    #[test]
    fn the_join_command_is_complete_and_safe_to_paste() {
        let addresses = ["10.0.0.1:7443".to_owned(), "[fd00::1]:7443".to_owned()];
        assert_eq!(
            join_command(&addresses, &[], "n1", "wharf1.agent.x.y-_z.w.0")
                .ok()
                .as_deref(),
            Some(
                "wharf-agent run --data-dir /var/lib/wharf-agent --coordinators 10.0.0.1:7443,[fd00::1]:7443 --name \
                 n1 --token wharf1.agent.x.y-_z.w.0"
            )
        );
        let one = ["h:1".to_owned()];
        assert_eq!(
            join_command(&one, &["h:9".to_owned()], "", "t").ok().as_deref(),
            Some("wharf-agent run --data-dir /var/lib/wharf-agent --coordinators h:1 --enrol h:9 --token t")
        );
        assert!(join_command(&[], &[], "", "t").is_err());
        for bad in ["h:1;reboot", "h", "h:0", ":1", "h:70000"] {
            assert!(join_command(&[bad.to_owned()], &[], "", "t").is_err(), "{bad}");
            assert!(join_command(&one, &[bad.to_owned()], "", "t").is_err(), "{bad}");
        }
        assert!(join_command(&one, &[], "", "t$(reboot)").is_err());
        assert!(join_command(&one, &[], "a b", "t").is_err());

        let join = |enrol: &[String], token| replica_command(&addresses, enrol, token).ok();
        assert_eq!(
            join(&[], "wharf1.coordinator.x.y.z.0").as_deref(),
            Some(
                "wharf-coordinator join --data-dir /var/lib/wharf --peers 10.0.0.1:7444,[fd00::1]:7444 --token \
                 wharf1.coordinator.x.y.z.0"
            )
        );
        assert!(join(&["h:9".to_owned()], "t").is_some_and(|c| c.contains("--peers h:9 ")));
        assert_eq!(join(&["h:9;reboot".to_owned()], "t"), None);
        assert_eq!(join(&[], "t;reboot"), None);
        assert!(replica_command(&["h:65535".to_owned()], &[], "t").is_err());
    }
}
