//! A host loses power under its pods: until the node is NotReady, until its pods have left their Endpoints, and until
//! their replacements are Ready elsewhere. Called by [`super::measure`].
//!
//! The settings are those that are shipped, but that a node's pods are replaced without a toleration and a container
//! is ready when it runs: what is measured is what Wharfinger adds. The limit is the silence after which a node is
//! lost, three heartbeats; a host that dies just after a heartbeat is noticed no sooner.
//!
//! The host is cut off before it is killed: nobody resets its connections for it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{pause, say, stats::Sample, until};
use crate::{Hosts, Options, cluster::controller, load};

/// Three heartbeats of two seconds.
const SILENCE: Duration = Duration::from_secs(6);
/// Controller.
const NAME: &str = "bench";
const REPLICAS: usize = 6;
/// Lets the returned host's last words pass before the next round.
const BETWEEN: Duration = Duration::from_secs(5);

/// Seconds from the loss of power.
#[derive(Clone, Debug)]
pub struct Loss {
    pub not_ready: Sample,
    pub out_of_endpoints: Sample,
    pub replaced: Sample,
}

impl Loss {
    /// Seconds.
    pub fn limit() -> f64 {
        SILENCE.as_secs_f64()
    }

    pub fn json(&self) -> Value {
        json!({"silenceSeconds": Self::limit(), "replicas": REPLICAS, "notReadySeconds": self.not_ready.json(),
               "outOfEndpointsSeconds": self.out_of_endpoints.json(), "replacedSeconds": self.replaced.json()})
    }
}

/// So many losses of one of three hosts, one after the other.
pub fn measure(rounds: u32) -> Loss {
    let mut hosts = Hosts::start(
        "lossbench",
        3,
        Options {
            quick: false,
            ..Options::default()
        },
    );
    let settings = ["replace-unreachable-after=0s", "ready-after=0s", "brake-share=100%"];
    let args: Vec<&str> = ["settings", "set"].into_iter().chain(settings).collect();
    hosts.cluster.wharf(&args).ok();
    let mut manifest = controller(NAME, i32::try_from(REPLICAS).expect("few"), &["serve"]);
    manifest["spec"]["template"]["metadata"]["annotations"] = json!({"wharfinger.io/host-port": "auto"});
    manifest["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    hosts.cluster.create(&manifest).ok();
    let (mut not_ready, mut out, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        hosts.settled(REPLICAS);
        let name = format!("n{}", round % 3 + 1);
        say(&format!("{name} loses power ({} of {rounds})", round + 1));
        let lost = hosts.address(&name);
        let http = hosts.cluster.http();
        let ready = || load::ready(&http, "default", NAME).unwrap_or_default();
        until("every pod is in the Endpoints", || ready().len() == REPLICAS);
        let start = Instant::now();
        hosts.cut(&name);
        // One look after the other, so that each is told apart by some hundredths of a second.
        let mut seen = [None; 3];
        until("the lost pods are replaced", || {
            let addresses = ready();
            let left = addresses.iter().all(|a| !a.starts_with(&format!("{lost}:")));
            let down = || hosts.cluster.node_condition(&name).0 != "True";
            let now = || Some(start.elapsed().as_secs_f64());
            if seen[0].is_none() && down() {
                seen[0] = now();
            }
            if seen[1].is_none() && left {
                seen[1] = now();
            }
            if left && addresses.len() == REPLICAS {
                seen[2] = now();
            }
            seen.iter().all(Option::is_some)
        });
        not_ready.extend(seen[0]);
        out.extend(seen[1]);
        replaced.extend(seen[2]);
        hosts.power_off(&name);
        hosts.boot(&name);
        hosts.cluster.node_ready(&name);
        hosts.settled(REPLICAS);
        pause(BETWEEN);
    }
    let sample = |values| Sample::new(values).expect("at least one round");
    Loss {
        not_ready: sample(not_ready),
        out_of_endpoints: sample(out),
        replaced: sample(replaced),
    }
}
