//! Rolling updates: what is asked for, what is printed, and how the command ends.

use proto::{model::Kind, wire::UpdateView};

use crate::fake::{Command, Fake, over, rc, updating, within};

fn fake() -> Fake {
    let fake = Fake::new();
    fake.put(Kind::ReplicationController, rc("web", 3));
    fake
}

const SECOND: &str = "kind: ReplicationController\nmetadata: {name: web-v2}\nspec:\n  replicas: 3\n  template:\n    metadata: \
     {labels: {app: web, version: '2'}}\n    spec: {containers: [{name: c, image: 'web:2'}]}\n";

/// Runs a line with the file `web-v2.yaml`; status, output, errors.
async fn run(fake: &Fake, line: &str) -> (u8, String, String) {
    let server = fake.serve().await;
    let command = Command::new(&[&server.address]);
    command.file("web-v2.yaml", SECOND);
    command.file("two.yaml", &format!("{SECOND}---\n{SECOND}"));
    command.file(
        "elsewhere.yaml",
        &SECOND.replace("{name: web-v2}", "{name: web-v2, namespace: other}"),
    );
    command.file(
        "pod.yaml",
        "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: 'i'}]}\n",
    );
    let dir = command.dir.path().to_owned();
    let words = line.split(' ').skip(1).map(|word| {
        if word.ends_with(".yaml") {
            dir.join(word).display().to_string()
        } else {
            word.to_owned()
        }
    });
    let words: Vec<String> = words.collect();
    let done = within(command.run_words(words.into_iter())).await;
    (done.code, done.out, done.err)
}

#[tokio::test]
async fn an_update_from_a_file_is_told_step_by_step() {
    let fake = fake();
    let (code, out, err) = run(
        &fake,
        "wharf rolling-update web -f web-v2.yaml --max-surge 2 --on-failure rollback",
    )
    .await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "Creating web-v2
At beginning of loop: web replicas: 2, web-v2 replicas: 1
Updating web replicas: 2, web-v2 replicas: 1
At end of loop: web replicas: 2, web-v2 replicas: 1
At beginning of loop: web replicas: 1, web-v2 replicas: 2
Updating web replicas: 1, web-v2 replicas: 2
At end of loop: web replicas: 1, web-v2 replicas: 2
At beginning of loop: web replicas: 0, web-v2 replicas: 3
Updating web replicas: 0, web-v2 replicas: 3
At end of loop: web replicas: 0, web-v2 replicas: 3
Update succeeded. Deleting web
web-v2
"
    );
    let calls = fake.state().calls.clone();
    assert!(
        calls[0].starts_with("update web 2 rollback rolling-update web -f "),
        "{calls:?}"
    );
}

#[tokio::test]
async fn files_that_are_no_one_controller_are_refused_before_anything_is_asked() {
    let fake = fake();
    for (file, words) in [
        (
            "two.yaml",
            "it has 2 objects; an update takes one replicationcontroller",
        ),
        ("pod.yaml", "pod \"p\" is no replicationcontroller"),
        (
            "elsewhere.yaml",
            "but web is in \"default\": the new controller must be in the old one's",
        ),
    ] {
        let (code, _, err) = run(&fake, &format!("wharf rolling-update web -f {file}")).await;
        assert!(code == 1 && err.contains(words), "{err}");
    }
    let (code, _, err) = run(&fake, "wharf rolling-update web").await;
    assert!(code == 2 && err.contains("--filename"), "{err}");
    assert!(fake.state().calls.is_empty());
    let (code, _, err) = run(&fake, "wharf rolling-update nothing --image=web:2").await;
    assert_eq!(
        (code, err.as_str()),
        (1, "error: replicationcontrollers \"nothing\" not found\n")
    );
}

#[tokio::test]
async fn one_that_fails_says_why_and_what_helps() {
    let fake = fake();
    let why = "paused: web-v2-x exited 1 three times: no such file; go on: wharf rollout resume rc web";
    fake.state().update_views = vec![
        updating(&[(2, 1, false, false)]),
        UpdateView {
            phase: "Paused".into(),
            paused: true,
            failed: true,
            why: vec![why.into()],
            ..updating(&[(2, 1, false, false)])
        },
    ];
    let (code, out, err) = run(&fake, "wharf rolling-update web --image=web:2").await;
    assert_eq!(code, 1);
    assert!(out.ends_with("Updating web replicas: 2, web-v2 replicas: 1\n"), "{out}");
    assert_eq!(err, format!("update of web: {why}\nerror: the update of web failed\n"));
}

#[tokio::test]
async fn one_that_was_there_is_attached_to_and_one_that_is_paused_is_left() {
    let fake = fake();
    fake.state().updated_before = true;
    fake.state().update_views = vec![UpdateView {
        phase: "Paused".into(),
        paused: true,
        why: vec!["paused by ann".into()],
        ..updating(&[(2, 1, false, false)])
    }];
    let (code, out, err) = run(&fake, "wharf rolling-update web --image=web:2").await;
    assert_eq!((code, err.as_str()), (3, "update of web: paused by ann\n"));
    assert!(
        out.starts_with("Found existing update in progress (web-v2), resuming.\n"),
        "{out}"
    );
}

#[tokio::test]
async fn a_rollback_is_told_the_other_way_round() {
    let fake = fake();
    let done = [(2, 1, false, true)];
    fake.state().update_views = vec![
        updating(&done),
        over("RolledBack", &[(2, 1, false, true), (3, 0, true, true)]),
    ];
    let (code, out, err) = run(&fake, "wharf rolling-update web --rollback").await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "Found existing update in progress (web-v2), resuming.
Found desired replicas.Continuing update with existing controller web.
At beginning of loop: web-v2 replicas: 0, web replicas: 3
Updating web-v2 replicas: 0, web replicas: 3
At end of loop: web-v2 replicas: 0, web replicas: 3
Update succeeded. Deleting web-v2
web
"
    );
    fake.state().no_update = true;
    let (code, out, err) = run(&fake, "wharf rolling-update web --rollback").await;
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (1, "", "error: no update of web in progress\n")
    );
}

#[tokio::test]
async fn one_that_came_back_has_failed_for_who_wanted_it() {
    let fake = fake();
    let done = [(2, 1, false, true)];
    let back = |view: UpdateView| UpdateView {
        back: true,
        back_why: "web-v2-x exited 1 three times".into(),
        ..view
    };
    let steps = [(2, 1, false, true), (3, 0, true, true)];
    fake.state().update_views = vec![
        updating(&done),
        back(updating(&steps)),
        back(over("RolledBack", &steps)),
    ];
    let (code, out, err) = run(&fake, "wharf rolling-update web -f web-v2.yaml").await;
    assert!(out.ends_with("Update succeeded. Deleting web-v2\nweb\n"), "{out}");
    assert_eq!(
        (code, err.as_str()),
        (
            1,
            "update of web: turned back: web-v2-x exited 1 three times\n\
             error: the update of web was rolled back: web-v2-x exited 1 three times\n"
        )
    );
    // By somebody else.
    fake.state().update_views = vec![over("RolledBack", &steps)];
    let (code, _, err) = run(&fake, "wharf rolling-update web -f web-v2.yaml").await;
    assert_eq!(
        (code, err.as_str()),
        (1, "error: the update of web was rolled back: somebody asked for it\n")
    );
}

#[tokio::test]
async fn who_does_not_wait_hears_how_to_look_and_to_take_it_back() {
    let fake = fake();
    fake.state().update_views = vec![updating(&[(2, 1, false, true), (1, 2, false, false)])];
    let (code, out, err) = run(&fake, "wharf rolling-update web --image=web:2 --no-wait").await;
    assert_eq!((code, out.as_str()), (0, "Creating web-v2\n"));
    assert_eq!(
        err,
        "update of web goes on (step 2 of 3). stop: wharf rollout pause rc web · undo: wharf rolling-update web --rollback\n"
    );
}

#[tokio::test]
async fn a_dry_run_shows_both_controllers() {
    let fake = fake();
    let (code, out, _) = run(&fake, "wharf rolling-update web --image=web:2 --dry-run").await;
    assert_eq!(code, 0);
    let documents: Vec<&str> = out.split("---\n").collect();
    assert_eq!(documents.len(), 2, "{out}");
    assert!(documents[1].contains("web-v2"), "{out}");
}

#[tokio::test]
async fn status_history_and_the_rest() {
    let fake = fake();
    let (code, out, err) = run(&fake, "wharf rollout status rc web").await;
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "web was replaced by web-v2 in 12s\n", "")
    );
    let (code, out, _) = run(&fake, "wharf rollout status rc/web -o json").await;
    assert!(code == 0 && out.contains("\"phase\": \"Updated\""), "{out}");
    let (_, out, _) = run(&fake, "wharf rollout history rc web").await;
    assert_eq!(
        out,
        "REVISION   NAME   IMAGES   AGE   BY      CHANGE-CAUSE
1          web    web:1    60s   admin   rolling-update web --image=web:1
2          web    web:2    60s   admin   rolling-update web --image=web:2
"
    );
    let (code, out, _) = run(&fake, "wharf rollout history rc web --revision 2").await;
    assert!(code == 0 && out.contains("name: web"), "{out}");
    let (code, _, err) = run(&fake, "wharf rollout history rc web --revision 9").await;
    assert!(code == 1 && err.contains("there is no revision 9 of it"), "{err}");
    let (_, out, _) = run(&fake, "wharf rollout pause rc web").await;
    assert_eq!(out, "replicationcontroller/web paused\n");
    let (_, out, _) = run(&fake, "wharf rollout resume rc/web --dry-run").await;
    assert_eq!(out, "replicationcontroller/web resumed (dry run)\n");
    let (code, out, _) = run(&fake, "wharf rollout undo rc web --to-revision 1").await;
    assert!(code == 0 && out.ends_with("web-v2\n"), "{out}");
    assert!(fake.state().calls.contains(&"undo web 1".to_owned()));
    let (code, _, err) = run(&fake, "wharf rollout status pod web-1").await;
    assert!(code == 2 && err.contains("rc can"), "{err}");
}

#[tokio::test]
async fn an_image_is_set_and_the_running_pods_stay() {
    let fake = fake();
    let (code, out, err) = run(&fake, "wharf set image rc web c=web:9").await;
    assert_eq!((code, out.as_str()), (0, "replicationcontroller/web image updated\n"));
    assert!(
        err.contains("running pods stay as they are") && err.contains("wharf rolling-update web --image=web:9"),
        "{err}"
    );
    let (_, out, _) = run(&fake, "wharf set image rc web c=web:9").await;
    assert_eq!(out, "replicationcontroller/web image unchanged\n");
    let (code, _, err) = run(&fake, "wharf set image rc web db=web:9").await;
    assert!(code == 1 && err.contains("there is no container \"db\""), "{err}");
    let (code, _, _) = run(&fake, "wharf set image rc web").await;
    assert_eq!(code, 2);
}
