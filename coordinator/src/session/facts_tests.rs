//! What passes, and what does not.

use super::*;
use crate::session::testing::facts;

#[test]
fn a_hosts_facts_become_a_node_status() {
    let record = record(&facts(), &["sandbox".to_owned()]).unwrap();
    let json = serde_json::to_value(&record.status).unwrap();
    assert_eq!(json["capacity"]["cpu"], "2");
    assert_eq!(json["allocatable"]["memory"], "1048576Ki");
    assert_eq!(json["allocatable"]["pods"], "110");
    assert_eq!(json["nodeInfo"]["containerRuntimeVersion"], "docker://20.10.24");
    assert_eq!(json["addresses"][0]["type"], "InternalIP");
    assert_eq!(json["addresses"][1]["address"], "host7");
    assert!(json.get("conditions").is_none());
    assert_eq!(record.capabilities, ["sandbox"]);
}

#[test]
fn out_of_bounds_is_refused_by_name() {
    type Spoil = fn(&mut NodeFacts);
    let cases: [(&str, Spoil); 8] = [
        ("capacity is missing", |f| f.capacity = None),
        ("allocatable is missing", |f| f.allocatable = None),
        ("beyond", |f| f.capacity.as_mut().unwrap().memory = u64::MAX),
        ("allocatable cpu", |f| f.allocatable.as_mut().unwrap().cpu_milli = 2001),
        ("hostname", |f| f.hostname = "h".repeat(300)),
        ("machine_id", |f| f.machine_id = "a\u{1b}[31m".into()),
        ("addresses", |f| f.addresses = vec!["not an address".into()]),
        ("addresses", |f| f.addresses = vec!["192.0.2.1".into(); 17]),
    ];
    for (word, spoil) in cases {
        let mut facts = facts();
        spoil(&mut facts);
        let refused = record(&facts, &[]).unwrap_err();
        assert!(refused.contains(word), "{refused}");
    }
    assert!(record(&facts(), &["No Word".to_owned()]).is_err());
    assert!(record(&facts(), &vec!["x".to_owned(); 65]).is_err());
}

#[test]
fn others_containers_are_kept_within_bounds() {
    let other = |name: &str| UnmanagedContainer {
        name: name.into(),
        image: "i".into(),
        state: "running".into(),
    };
    let told = |n: usize, count| {
        let mut facts = facts();
        facts.unmanaged = vec![other("x\n\u{1b}y"); n].iter().map(wire_of).collect();
        facts.unmanaged_count = count;
        record(&facts, &[]).unwrap().unmanaged
    };
    assert_eq!(told(0, 0), None);
    let one = told(1, 0).unwrap();
    assert_eq!((one.count, one.containers), (1, vec![other("x  y")]));
    let many = told(500, 7000).unwrap();
    assert_eq!((many.count, many.containers.len()), (7000, 100));
    // An earlier release's record has none.
    let mut stored = serde_json::to_value(record(&facts(), &[]).unwrap()).unwrap();
    assert!(stored.get("unmanaged").is_none());
    stored["unmanaged"] =
        serde_json::json!({"count": 1, "containers": [{"name": "db", "image": "i", "state": "exited"}]});
    let read: FactsRecord = serde_json::from_value(stored).unwrap();
    assert_eq!(read.unmanaged.unwrap().containers[0].name, "db");
}

fn wire_of(c: &UnmanagedContainer) -> proto::wire::UnmanagedContainer {
    proto::wire::UnmanagedContainer {
        name: c.name.clone(),
        image: c.image.clone(),
        state: c.state.clone(),
    }
}

#[test]
fn dockers_words_are_one_bounded_line() {
    let mut facts = facts();
    facts.docker_ready = false;
    facts.docker_reason = format!("  no\r\ndaemon {}", "é".repeat(2000));
    let reason = record(&facts, &[]).unwrap().docker_reason;
    assert!(reason.starts_with("no  daemon é") && reason.len() <= 1024, "{reason}");
    facts.docker_ready = true;
    assert_eq!(record(&facts, &[]).unwrap().docker_reason, "");
}
