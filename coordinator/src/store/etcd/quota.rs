//! How much a member may hold, where its release does not tell it in its status (before 3.6): read once from its metrics,
//! which it serves on the same port to the same certificates. Called by `status`.
//!
//! Invariant: what cannot be read is not known; nothing waits for it longer than a status may take.

use etcd_client::TlsOptions;
use http_body_util::{BodyExt as _, Limited};
use tonic::{body::Body, transport::Endpoint};
use tower::ServiceExt as _;

/// Most bytes of metrics that are read; a member has some hundred thousand.
const MOST: usize = 8 << 20;
const METRIC: &str = "etcd_server_quota_backend_bytes ";

/// Bytes; none: it does not say. Without TLS etcd takes any HTTP/2 for gRPC, so there it cannot be asked.
pub(super) async fn ask(url: &str, tls: Option<&TlsOptions>) -> Option<u64> {
    let endpoint = Endpoint::from_shared(url.to_owned()).ok()?;
    let channel = endpoint.tls_config(tls?.clone()).ok()?.connect().await.ok()?;
    let request = http::Request::get("/metrics").body(Body::empty()).ok()?;
    let reply = channel.oneshot(request).await.ok()?;
    let body = Limited::new(reply.into_body(), MOST).collect().await.ok()?;
    parse(std::str::from_utf8(&body.to_bytes()).ok()?)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to fit")]
fn parse(metrics: &str) -> Option<u64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(METRIC))?;
    // Prometheus writes `2.147483648e+09`.
    let bytes: f64 = value.trim().parse().ok()?;
    (bytes > 0.0 && bytes < 9e15).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_stands_among_other_metrics() {
        let metrics = |value: &str| {
            format!(
                "# HELP x y\netcd_server_id{{server_id=\"1\"}} 1\netcd_server_quota_backend_bytes {value}\ngo_x 1\n"
            )
        };
        assert_eq!(parse(&metrics("2.147483648e+09")), Some(2 << 30));
        assert_eq!(parse(&metrics("16777216")), Some(16 << 20));
        for nothing in ["0", "-1", "NaN", "many", "1e300"] {
            assert_eq!(parse(&metrics(nothing)), None, "{nothing}");
        }
        assert_eq!(parse("etcd_server_quota 7\n"), None);
    }
}
