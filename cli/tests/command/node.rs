//! `wharf node`.

use proto::model::Kind;
use serde_json::json;

use crate::fake::{Fake, wharf};

#[tokio::test]
async fn readmit_and_forget_say_what_they_did() {
    let fake = Fake::new();
    let server = fake.serve().await;
    for (verb, done, already) in [
        ("readmit", "readmitted", "is not in quarantine"),
        ("forget", "forgotten", "is forgotten already"),
    ] {
        fake.put(Kind::Node, json!({"metadata": {"name": "n1"}, "marked": true}));
        fake.put(Kind::Node, json!({"metadata": {"name": "n2"}}));
        let dry = wharf(&server, &format!("node {verb} n1 --dry-run")).await;
        assert_eq!((dry.code, dry.out), (0, format!("node/n1 {done} (dry run)\n")));
        let told = wharf(&server, &format!("node {verb} n1 n9 n2")).await;
        assert_eq!(told.out, format!("node/n1 {done}\nnode/n2 {already}\n"));
        assert_eq!((told.code, told.err.as_str()), (1, "error: nodes \"n9\" not found\n"));
    }
    let unnamed = wharf(&server, "node readmit").await;
    assert_eq!(unnamed.code, 2);
    // Each request has an id of its own, so that a repeat after a lost answer is safe.
    let calls = fake.state().calls.clone();
    let ids: std::collections::BTreeSet<_> = calls.iter().filter_map(|c| c.split(' ').nth(2)).collect();
    assert_eq!((ids.len(), ids.contains("")), (calls.len(), false));
}
