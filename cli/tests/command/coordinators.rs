//! `wharf cluster`.

use proto::wire::{self, cluster_problem::Area, replica::Role};
use serde_json::{Value, json};
use tonic::Status;

use crate::fake::{Command, Done, Fake, Server, member, problem, replica, three, wharf};

async fn serve(replicas: Option<wire::ReplicasStatusReply>) -> (Fake, Server) {
    let fake = Fake::new();
    fake.state().replicas = replicas;
    let server = fake.serve().await;
    (fake, server)
}

/// c3 is missing, and etcd2.
fn lost() -> wire::ReplicasStatusReply {
    let mut reply = three();
    reply.replicas[2] = replica("c3", Role::Missing);
    let store = reply.store.as_mut().expect("there");
    store.members[1] = wire::Member {
        reachable: false,
        version: String::new(),
        size: 0,
        in_use: 0,
        problem: "connection refused".into(),
        ..member(2)
    };
    reply.problems = vec![
        problem(
            Area::Member,
            "member/etcd2",
            "unreachable: connection refused",
            "systemctl status wharf-etcd, on 10.0.0.2",
        ),
        problem(
            Area::Replica,
            "coordinator/c3",
            "missing: it does not follow (c3.example:7443)",
            "systemctl status wharf-coordinator, on c3.example",
        ),
    ];
    reply.warnings = vec!["members: releases of etcd differ: 3.4.23, 3.5.1".into()];
    reply
}

/// As c2 sees it, while nobody leads.
fn unled() -> wire::ReplicasStatusReply {
    let mut reply = three();
    reply.answered_by = "c2".into();
    reply.leader.clear();
    reply.leads_since = 0;
    reply.replicas = vec![
        replica("c1", Role::Unknown),
        replica("c2", Role::Standby),
        replica("c3", Role::Unknown),
    ];
    reply.problems = vec![problem(Area::Leader, "coordinator", "none leads", "journalctl")];
    reply
}

#[tokio::test]
async fn status_shows_coordinators_and_members() {
    let (_, server) = serve(Some(three())).await;
    let done = wharf(&server, "cluster status").await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    insta::assert_snapshot!(done.out, @r"
    c1 leads since 3h (term 41); it took over in 212 ms: gone

    NAME   ADDRESS           ROLE      VERSION   LAG   SKEW   SINCE
    c1     c1.example:7443   active    1.2.3     0     0ms    3h
    c2     c2.example:7443   standby   1.2.3     2     -3ms   3h
    c3     c3.example:7443   standby   1.2.3     0     0ms    3h

    NAME    ID                 ENDPOINT                STATUS     VERSION   SIZE   ALARMS
    etcd1   ce2a822cea30bfc1   https://10.0.0.1:2379   leader     3.4.23    3Mi    <none>
    etcd2   ce2a822cea30bfc2   https://10.0.0.2:2379   follower   3.4.23    3Mi    <none>
    etcd3   ce2a822cea30bfc3   https://10.0.0.3:2379   follower   3.4.23    3Mi    <none>

    a member takes 2Gi; the fullest has 0 % of it
    a durable write took 1.8 ms, at most 4.2 ms of 99 in 100, when this coordinator started
    last backup: 60m ago; one every 24h
    certificate of etcd client: ends in 8y
    ");
}

#[tokio::test]
async fn status_shows_the_worst_with_its_remedy_and_fails() {
    let (_, server) = serve(Some(lost())).await;
    let done = wharf(&server, "cluster status").await;
    assert_eq!((done.code, done.err.as_str()), (1, ""));
    let from = done.out.find("\nNAME    ID").expect("members");
    insta::assert_snapshot!(&done.out[from + 1..], @r"
    NAME    ID                 ENDPOINT                STATUS        VERSION   SIZE     ALARMS
    etcd1   ce2a822cea30bfc1   https://10.0.0.1:2379   leader        3.4.23    3Mi      <none>
    etcd2   ce2a822cea30bfc2   https://10.0.0.2:2379   unreachable   <none>    <none>   <none>
    etcd3   ce2a822cea30bfc3   https://10.0.0.3:2379   follower      3.4.23    3Mi      <none>

    a member takes 2Gi; the fullest has 0 % of it
    a durable write took 1.8 ms, at most 4.2 ms of 99 in 100, when this coordinator started
    last backup: 60m ago; one every 24h
    certificate of etcd client: ends in 8y

    2 problems:
    OBJECT           REMEDY                                              WHAT
    member/etcd2     systemctl status wharf-etcd, on 10.0.0.2            unreachable: connection refused
    coordinator/c3   systemctl status wharf-coordinator, on c3.example   missing: it does not follow (c3.example:7443)

    warning: members: releases of etcd differ: 3.4.23, 3.5.1
    ");
    assert!(
        done.out
            .contains("c3     c3.example:7443   missing   1.2.3     <none>   <none>   <none>"),
        "{}",
        done.out
    );
}

#[tokio::test]
async fn one_coordinator_on_sqlite_is_a_short_screen() {
    let (fake, server) = serve(None).await;
    let done = wharf(&server, "cluster status").await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    insta::assert_snapshot!(done.out, @r"
    one coordinator on SQLite: c1 (c1.example:7443), release 1.2.3, leads since 3h (term 41), hears 3 nodes
    last backup: none; none is scheduled
    nobody takes over when it fails: see docs/high-availability.md
    ");
    let health = wharf(&server, "cluster health").await;
    assert_eq!(
        (health.code, health.out.as_str()),
        (0, "cluster is healthy\ncoordinator c1 is healthy\n")
    );
    let members = wharf(&server, "cluster members").await;
    assert_eq!(
        (members.code, members.out.as_str(), members.err.as_str()),
        (0, "", "No members found: the store is SQLite\n")
    );
    let list: Value = serde_json::from_str(&wharf(&server, "cluster members -o json").await.out).expect("JSON");
    assert_eq!(list["items"], json!([]));
    assert_eq!(fake.state().calls, ["replicas"; 4]);
}

#[tokio::test]
async fn where_nobody_leads_the_page_is_shown_all_the_same() {
    let (_, server) = serve(Some(unled())).await;
    let done = wharf(&server, "cluster status").await;
    assert_eq!(
        (done.code, done.err.as_str()),
        (
            4,
            "error: no coordinator leads: c2 answers, a standby, from its own view\n"
        )
    );
    assert!(
        done.out
            .starts_with("no coordinator leads; c2 answers, a standby, from its own view\n"),
        "{}",
        done.out
    );
    assert!(done.out.contains("c1     c1.example:7443   unknown"), "{}", done.out);
    let health = wharf(&server, "cluster health").await;
    assert_eq!(health.code, 1);
    assert!(health.out.starts_with("cluster is unhealthy\n"), "{}", health.out);
}

#[tokio::test]
async fn status_as_an_object_has_all() {
    let (_, server) = serve(Some(lost())).await;
    let done = wharf(&server, "cluster status -o json").await;
    assert_eq!((done.code, done.err.as_str()), (1, ""));
    let object: Value = serde_json::from_str(&done.out).expect("JSON");
    for (pointer, expected) in [
        ("/kind", json!("ReplicasStatus")),
        ("/well", json!(false)),
        ("/leader/name", json!("c1")),
        ("/leader/since", json!("2026-01-31T09:00:00Z")),
        ("/leader/tookMs", json!(212)),
        ("/coordinators/1/lag", json!(2)),
        ("/coordinators/1/skewMs", json!(-3)),
        ("/coordinators/2/role", json!("missing")),
        ("/coordinators/2/lag", Value::Null),
        ("/coordinators/2/since", Value::Null),
        ("/store/kind", json!("etcd")),
        ("/store/members/1/state", json!("unreachable")),
        ("/store/members/1/problem", json!("connection refused")),
        ("/store/members/0/inUse", json!(1 << 20)),
        ("/store/lastBackup", json!("2026-01-31T11:00:00Z")),
        ("/store/writeP99Us", json!(4200)),
        ("/problems/0/area", json!("memberUnreachable")),
        ("/problems/1/object", json!("coordinator/c3")),
        ("/warnings/0", json!("members: releases of etcd differ: 3.4.23, 3.5.1")),
    ] {
        assert_eq!(object.pointer(pointer), Some(&expected), "{pointer}: {object}");
    }
    let yaml = wharf(&server, "cluster status -o yaml").await;
    let same: Value = serde_saphyr::from_str(&yaml.out).expect("YAML");
    assert_eq!((yaml.code, same), (1, object));
}

#[tokio::test]
async fn health_is_a_line_each() {
    let with = |change: fn(&mut wire::ReplicasStatusReply, &mut wire::StoreStatus)| {
        let mut reply = three();
        let mut store = reply.store.take().expect("there");
        change(&mut reply, &mut store);
        reply.store = Some(store);
        reply
    };
    let all = "member ce2a822cea30bfc1 is healthy\nmember ce2a822cea30bfc2 is healthy\nmember ce2a822cea30bfc3 is \
               healthy\ncoordinator c1 is healthy\ncoordinator c2 is healthy\ncoordinator c3 is healthy\n";
    for (reply, code, cluster, line) in [
        (three(), 0, "healthy", all),
        (
            with(|_, s| {
                s.members[1].reachable = false;
                s.members[1].problem = "no answer\nwithin 1s".into();
            }),
            1,
            "degraded",
            "member ce2a822cea30bfc2 is unreachable: no answer within 1s\n",
        ),
        (
            with(|_, s| {
                for m in &mut s.members[1..] {
                    m.reachable = false;
                }
            }),
            1,
            "unhealthy",
            "member ce2a822cea30bfc1 is healthy\n",
        ),
        (
            with(|_, s| {
                for m in &mut s.members {
                    m.leader = false;
                }
            }),
            1,
            "unhealthy",
            "member ce2a822cea30bfc3 is healthy\n",
        ),
        (
            with(|_, s| s.members[2].alarms.push("NOSPACE".into())),
            1,
            "unhealthy",
            "member ce2a822cea30bfc3 is unhealthy: alarm NOSPACE\n",
        ),
        (
            with(|r, _| r.replicas[1] = replica("c2", Role::Missing)),
            1,
            "degraded",
            "coordinator c2 is missing: it does not follow\n",
        ),
        (
            // A learner has no vote: that it is away costs nothing yet.
            with(|_, s| {
                s.members[1].learner = true;
                s.members[1].reachable = false;
                s.members[2].learner = true;
                s.members[2].reachable = false;
            }),
            1,
            "degraded",
            "coordinator c3 is healthy\n",
        ),
    ] {
        let (_, server) = serve(Some(reply)).await;
        let done = wharf(&server, "cluster health").await;
        assert_eq!((done.code, done.err.as_str()), (code, ""), "{}", done.out);
        assert!(
            done.out.starts_with(&format!("cluster is {cluster}\nmember ")),
            "{}",
            done.out
        );
        assert!(done.out.contains(line), "{}", done.out);
        assert_eq!(done.out.lines().count(), 7, "{}", done.out);
    }
}

#[tokio::test]
async fn members_are_listed_as_etcd_lists_them() {
    let mut reply = three();
    let store = reply.store.as_mut().expect("there");
    store.members[2].learner = true;
    store.members[2].alarms.push("NOSPACE".into());
    store.members.push(wire::Member {
        name: String::new(),
        client_urls: Vec::new(),
        reachable: false,
        learner: true,
        version: String::new(),
        size: 0,
        in_use: 0,
        problem: "has not started".into(),
        ..member(4)
    });
    let (_, server) = serve(Some(reply)).await;
    let done = wharf(&server, "cluster members").await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    insta::assert_snapshot!(done.out, @r"
    ce2a822cea30bfc1: name=etcd1 peerURLs=https://10.0.0.1:2380 clientURLs=https://10.0.0.1:2379 isLeader=true isLearner=false
    ce2a822cea30bfc2: name=etcd2 peerURLs=https://10.0.0.2:2380 clientURLs=https://10.0.0.2:2379 isLeader=false isLearner=false
    ce2a822cea30bfc3: name=etcd3 peerURLs=https://10.0.0.3:2380 clientURLs=https://10.0.0.3:2379 isLeader=false isLearner=true
    ce2a822cea30bfc4[unstarted]: peerURLs=https://10.0.0.4:2380 isLearner=true
    ");
    assert_eq!(wharf(&server, "cluster member list").await.out, done.out);
    let wide = wharf(&server, "cluster members -o wide").await;
    insta::assert_snapshot!(wide.out, @r"
    NAME     ID                 PEER-URLS               CLIENT-URLS             STATUS      VERSION   SIZE     IN-USE   ALARMS    PROBLEM
    etcd1    ce2a822cea30bfc1   https://10.0.0.1:2380   https://10.0.0.1:2379   leader      3.4.23    3Mi      1Mi      <none>    <none>
    etcd2    ce2a822cea30bfc2   https://10.0.0.2:2380   https://10.0.0.2:2379   follower    3.4.23    3Mi      1Mi      <none>    <none>
    etcd3    ce2a822cea30bfc3   https://10.0.0.3:2380   https://10.0.0.3:2379   learner     3.4.23    3Mi      1Mi      NOSPACE   <none>
    <none>   ce2a822cea30bfc4   https://10.0.0.4:2380   <none>                  unstarted   <none>    <none>   <none>   <none>    has not started
    ");
    let names = wharf(&server, "cluster members -o name").await.out;
    assert_eq!(
        names,
        "member/etcd1\nmember/etcd2\nmember/etcd3\nmember/ce2a822cea30bfc4\n"
    );
    let list: Value = serde_json::from_str(&wharf(&server, "cluster members -o json").await.out).expect("JSON");
    assert_eq!(list["kind"], "List");
    assert_eq!(
        (
            &list["items"][0]["metadata"]["name"],
            &list["items"][0]["status"]["isLeader"]
        ),
        (&json!("etcd1"), &json!(true))
    );
}

fn told(done: &Done) -> (u8, &str, &str) {
    (done.code, &done.out, &done.err)
}

#[tokio::test]
async fn a_new_members_file_is_printed_and_can_be_used_as_it_is() {
    let (fake, server) = serve(Some(three())).await;
    let note = "this is its environment file; its certificates come from wharf-coordinator etcd-config: put both on its \
                host and start etcd there; it gets its vote once it has caught up\n";
    let file = "ETCD_NAME=etcd4\nETCD_INITIAL_CLUSTER_STATE=existing\n";
    let line = "cluster member add etcd4 --peer-url https://10.0.0.4:2380";
    for (line, said) in [
        (format!("{line} --dry-run"), "added (dry run)"),
        (line.to_owned(), "added, id 4fb1"),
    ] {
        let done = wharf(&server, &line).await;
        assert_eq!(
            told(&done),
            (0, format!("# member/etcd4 {said}\n{file}").as_str(), note)
        );
    }
    fake.state().warning = Some("4 members bear no more".into());
    let again = wharf(&server, "cluster member add etcd4 --peer-url https://10.0.0.3:2380").await;
    assert!(
        again.out.starts_with("# member/etcd4 added before, id 4fb1\n"),
        "{}",
        again.out
    );
    assert!(
        again.err.starts_with("warning: 4 members bear no more\n"),
        "{}",
        again.err
    );
    assert_eq!(
        fake.state().calls[..2],
        ["add etcd4 https://10.0.0.4:2380 dry", "add etcd4 https://10.0.0.4:2380"]
    );
    assert_eq!(wharf(&server, "cluster member add etcd4").await.code, 2);
}

#[tokio::test]
async fn update_and_defrag_say_what_they_did() {
    let (fake, server) = serve(Some(three())).await;
    for (line, out) in [
        (
            "update etcd2 --peer-url https://10.0.1.2:2380",
            "member/etcd2 updated\n",
        ),
        (
            "update etcd2 --peer-url https://10.0.1.2:2380 --dry-run",
            "member/etcd2 updated (dry run)\n",
        ),
        (
            "update etcd2 --peer-url https://10.0.0.2:2380",
            "member/etcd2 unchanged\n",
        ),
    ] {
        let done = wharf(&server, &format!("cluster member {line}")).await;
        assert_eq!(told(&done), (0, out, ""), "{line}");
    }
    let unknown = wharf(&server, "cluster member update x --peer-url https://h:1").await;
    assert_eq!(told(&unknown), (1, "", "error: members \"x\" not found\n"));
    let one = |name: &str, problem: &str| wire::defrag_reply::Done {
        name: name.into(),
        before: 3 << 20,
        after: 1 << 20,
        problem: problem.into(),
    };
    fake.state().defragmented = vec![one("etcd2", ""), one("etcd1", "")];
    let done = wharf(&server, "cluster defrag").await;
    let lines = "member/etcd2 defragmented: 1Mi, was 3Mi\nmember/etcd1 defragmented: 1Mi, was 3Mi\n";
    assert_eq!(told(&done), (0, lines, ""));
    let dry = wharf(&server, "cluster defrag etcd2 etcd1 --dry-run").await;
    let lines = "member/etcd2 defragmented (dry run)\nmember/etcd1 defragmented (dry run)\n";
    assert_eq!(told(&dry), (0, lines, ""));
    fake.state().defragmented[1].problem = "no answer".into();
    let failed = wharf(&server, "cluster defrag").await;
    assert_eq!(
        told(&failed),
        (
            1,
            "member/etcd2 defragmented: 1Mi, was 3Mi\n",
            "error: member \"etcd1\": no answer\n"
        )
    );
    let calls = fake.state().calls.clone();
    assert_eq!(
        calls[4..6],
        ["defrag []", "defrag [\"etcd2\", \"etcd1\"] dry"],
        "{calls:?}"
    );
}

#[tokio::test]
async fn remove_has_the_name_said_twice() {
    let (fake, server) = serve(Some(three())).await;
    fake.state().warning = Some("2 members are left".into());
    let warned = "warning: 2 members are left\n";
    let asked = "What etcd3 stores is of no use once it is removed. Its name again, to confirm: ";
    let refused = "error: member \"etcd3\"";
    for (line, typed, code, out, err) in [
        (
            "--dry-run",
            None,
            0,
            "member/etcd3 removed (dry run)\n",
            warned.to_owned(),
        ),
        (
            "",
            None,
            2,
            "",
            "error: nobody to ask: say it again, if etcd3 is to go for good: --yes etcd3\n".to_owned(),
        ),
        (
            "--yes etcd2",
            None,
            1,
            "",
            format!("{refused}: --yes is \"etcd2\", not its own; nothing was removed\n"),
        ),
        (
            "",
            Some("yes\n"),
            1,
            "",
            format!("{asked}{refused}: the name typed is \"yes\", not its own; nothing was removed\n"),
        ),
        (
            "",
            Some("etcd3\n"),
            0,
            "member/etcd3 removed\n",
            format!("{asked}{warned}"),
        ),
        ("--yes etcd3", None, 0, "member/etcd3 removed\n", warned.to_owned()),
    ] {
        let mut command = Command::new(&[&server.address]);
        if let Some(typed) = typed {
            command = command.stdin(typed);
            command.env.stdin_is_terminal = true;
        }
        let done = command.run(&format!("cluster member remove etcd3 {line}")).await;
        assert_eq!(told(&done), (code, out, err.as_str()), "{line} {typed:?}");
    }
    assert_eq!(fake.state().calls, ["remove etcd3 dry", "remove etcd3", "remove etcd3"]);
}

#[tokio::test]
async fn transfer_says_who_leads_and_is_sent_once() {
    let (fake, server) = serve(Some(three())).await;
    for (line, out) in [
        ("cluster transfer", "coordinator c3 leads (term 42)\n"),
        ("cluster transfer --to c2", "coordinator c2 leads (term 42)\n"),
        ("cluster transfer --to c2 --dry-run", "coordinator c2 leads (dry run)\n"),
    ] {
        assert_eq!(told(&wharf(&server, line).await), (0, out, ""), "{line}");
    }
    // It did not take over in time: the answer stands, and nothing is handed over a second time.
    let late = "coordinators \"c2\": it did not take over within 1 s";
    fake.state().failures.push_back(Status::deadline_exceeded(late));
    let done = wharf(&server, "cluster transfer --to c2 --reason kernel").await;
    assert_eq!(told(&done), (1, "", format!("error: {late}\n").as_str()));
    let calls = fake.state().calls.clone();
    assert_eq!(
        calls,
        [
            "transfer \"\"",
            "transfer \"c2\"",
            "transfer \"c2\" dry",
            "transfer \"c2\""
        ]
    );
    assert_eq!(fake.state().reasons, ["kernel"]);
}

#[tokio::test]
async fn an_older_coordinator_and_a_hostile_one_are_met_in_words() {
    let mut reply = three();
    reply.leader = "c1\u{1b}[31m".into();
    reply.replicas[0].name = "c1\nx".into();
    reply.warnings = vec!["a\nb".into()];
    let (fake, server) = serve(Some(reply)).await;
    for line in ["cluster status", "cluster health"] {
        let done = wharf(&server, line).await;
        assert!(
            !done.out.contains('\u{1b}') && !done.out.contains("\nx"),
            "{}",
            done.out
        );
    }
    fake.state().older = true;
    let old = wharf(&server, "cluster status").await;
    assert_eq!((old.code, old.out.as_str()), (1, ""));
    assert!(old.err.contains("it is older than this command"), "{}", old.err);
    // `wharf status` does without.
    let done = wharf(&server, "status").await;
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
}

#[tokio::test]
async fn the_page_of_status_lists_what_is_wrong_with_coordinators() {
    let (fake, server) = serve(Some(lost())).await;
    let done = wharf(&server, "status").await;
    assert_eq!(done.code, 1);
    insta::assert_snapshot!(done.out, @r"
    2 problems: 0 nodes, 0 controllers, 0 pods

    OBJECT           SINCE    REMEDY                                              WHAT
    member/etcd2     <none>   systemctl status wharf-etcd, on 10.0.0.2            unreachable: connection refused
    coordinator/c3   <none>   systemctl status wharf-coordinator, on c3.example   missing: it does not follow (c3.example:7443)
    ");
    let asked = fake.state().calls.iter().filter(|c| *c == "replicas").count();
    assert_eq!(asked, 1, "one call more, whatever the cluster");
}
