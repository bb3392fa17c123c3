//! Asks a container once. Called by [`super::watch`].
//!
//! Invariant: an answer comes within the probe's timeout; a failure of the engine or of the agent is no finding.

use std::time::Duration;

use proto::model::{Container, HttpGet, PortRef, Probe};
use tokio::{net::TcpStream, time::timeout};

use super::{http, tally::Finding};
use crate::{
    runtime::{Executed, RuntimeError},
    worker::Shared,
};

/// Most bytes of a command's output in words for people.
const SHOWN: usize = 256;

pub(super) async fn check(shared: &Shared, container: &Container, id: &str, ip: &str, probe: &Probe) -> Finding {
    let limit = Duration::from_secs(probe.timeout().into());
    if let Some(get) = &probe.http_get {
        let Some((host, port)) = address(container, &get.host, ip, &get.port) else {
            return Finding::Unknown;
        };
        return within(limit, http_get(get, &host, port)).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let Some((host, port)) = address(container, &tcp.host, ip, &tcp.port) else {
            return Finding::Unknown;
        };
        return within(limit, connect(&host, port)).await;
    }
    let command = probe.exec.as_ref().map(|e| e.command.as_slice()).unwrap_or_default();
    let finding = of_command(shared.runtime.exec(id, command, limit).await);
    // A command that is not answered because the engine is not says nothing of the container.
    if shared.engine_answers() {
        finding
    } else {
        Finding::Unknown
    }
}

/// Where to connect to; `None` while the pod has no address. The coordinator admits only names of ports that the
/// container has.
pub(super) fn address(container: &Container, host: &str, ip: &str, port: &PortRef) -> Option<(String, u16)> {
    let host = if host.is_empty() { ip } else { host };
    if host.is_empty() {
        return None;
    }
    Some((host.to_owned(), container.port(port)?))
}

async fn within(limit: Duration, asked: impl Future<Output = Result<(), String>>) -> Finding {
    match timeout(limit, asked).await {
        Ok(Ok(())) => Finding::Good,
        Ok(Err(words)) => Finding::Bad(words),
        Err(_) => Finding::Bad(format!("no answer within {}s", limit.as_secs())),
    }
}

/// As Kubernetes counts: 200 to 399 is good, and a redirect is not followed.
pub(super) async fn http_get(get: &HttpGet, host: &str, port: u16) -> Result<(), String> {
    match http::get(get, host, port).await?.as_u16() {
        200..=399 => Ok(()),
        status => Err(format!("HTTP status {status}")),
    }
}

async fn connect(host: &str, port: u16) -> Result<(), String> {
    let connected = TcpStream::connect((host, port)).await;
    connected
        .map(drop)
        .map_err(|e| format!("connect to {host}:{port}: {e}"))
}

fn of_command(executed: Result<Executed, RuntimeError>) -> Finding {
    match executed {
        Ok(Executed::Exited { code: 0, .. }) => Finding::Good,
        Ok(executed) => Finding::Bad(words(&executed)),
        // It ends just now, or the engine is away.
        Err(RuntimeError::Unavailable(_) | RuntimeError::NoSuchContainer(_)) => Finding::Unknown,
        Err(e) => Finding::Bad(e.to_string()),
    }
}

/// Of a command that failed.
pub(super) fn words(executed: &Executed) -> String {
    match executed {
        Executed::Exited { code, output } => {
            let output: String = output.trim().chars().take(SHOWN).collect();
            let colon = if output.is_empty() { "" } else { ": " };
            format!("the command ended with code {code}{colon}{output}")
        }
        Executed::Unended(limit) => format!("the command did not end within {}s", limit.as_secs()),
        Executed::Earlier => "an earlier run of the command has not ended".into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers one connection with `answer`; what was asked, and the port.
    async fn server(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut asked = vec![0; 4096];
            let n = stream.read(&mut asked).await.expect("read");
            stream.write_all(answer.as_bytes()).await.expect("written");
            asked.truncate(n);
            String::from_utf8(asked).expect("text")
        });
        (port, task)
    }

    fn get(json: &str) -> HttpGet {
        serde_json::from_str(json).expect("a request")
    }

    #[tokio::test]
    async fn statuses_from_200_to_399_are_good() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Ok(())),
            (
                "HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n",
                Ok(()),
            ),
            (
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
                Err("HTTP status 404".to_owned()),
            ),
            ("HTTP/1.0 503 Busy\r\n\r\n", Err("HTTP status 503".to_owned())),
        ] {
            let (port, asked) = server(answer).await;
            assert_eq!(http_get(&get(r#"{"port":1}"#), "127.0.0.1", port).await, expected);
            let asked = asked.await.expect("asked");
            assert!(asked.starts_with("GET / HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{asked}");
        }
    }

    #[tokio::test]
    async fn headers_and_path_as_asked_for() {
        let (port, asked) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        let get = get(
            r#"{"port":1,"path":"ok?full=1","httpHeaders":[{"name":"Host","value":"app.example"},
                {"name":"X-Who","value":"a"},{"name":"X-Who","value":"b"}]}"#,
        );
        assert_eq!(http_get(&get, "127.0.0.1", port).await, Ok(()));
        let asked = asked.await.expect("asked");
        assert!(asked.starts_with("GET /ok?full=1 HTTP/1.1\r\n"), "{asked}");
        for header in ["host: app.example\r\n", "x-who: a\r\n", "x-who: b\r\n"] {
            assert!(asked.contains(header), "{asked}");
        }
    }

    #[tokio::test]
    async fn what_does_not_answer_is_bad_within_its_time() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = closed.local_addr().expect("bound").port();
        drop(closed);
        let refused = connect("127.0.0.1", port).await.expect_err("refused");
        assert!(refused.contains("refused"), "{refused}");
        let refused = http_get(&get(r#"{"port":1}"#), "127.0.0.1", port).await;
        assert!(refused.expect_err("refused").contains("refused"));

        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = silent.local_addr().expect("bound").port();
        assert_eq!(connect("127.0.0.1", port).await, Ok(()));
        let limit = Duration::from_millis(50);
        let finding = within(limit, http_get(&get(r#"{"port":1}"#), "127.0.0.1", port)).await;
        assert!(
            matches!(&finding, Finding::Bad(words) if words.starts_with("no answer within")),
            "{finding:?}"
        );
        // Not HTTP at all.
        let (port, _) = server("SSH-2.0-x\r\n").await;
        assert!(http_get(&get(r#"{"port":1}"#), "127.0.0.1", port).await.is_err());
    }

    #[test]
    fn where_to() {
        let container: Container =
            serde_json::from_str(r#"{"name":"c","ports":[{"name":"web","containerPort":8080}]}"#).expect("a container");
        let to = |host: &str, ip: &str, port| address(&container, host, ip, &port);
        let (named, number) = (PortRef::Name("web".into()), PortRef::Number(81));
        assert_eq!(to("", "172.17.0.2", named.clone()), Some(("172.17.0.2".into(), 8080)));
        assert_eq!(
            to("localhost", "172.17.0.2", number.clone()),
            Some(("localhost".into(), 81))
        );
        // No address yet: nothing can be learned.
        assert_eq!(to("", "", number), None);
        assert_eq!(to("", "172.17.0.2", PortRef::Name("gone".into())), None);
    }

    #[test]
    fn commands() {
        let exited = |code, output: &str| {
            Ok(Executed::Exited {
                code,
                output: output.into(),
            })
        };
        let bad = |words: &str| Finding::Bad(words.into());
        for (executed, expected) in [
            (exited(0, "fine"), Finding::Good),
            (exited(1, " no file\n"), bad("the command ended with code 1: no file")),
            (exited(3, ""), bad("the command ended with code 3")),
            (
                Ok(Executed::Unended(Duration::from_secs(2))),
                bad("the command did not end within 2s"),
            ),
            (
                Ok(Executed::Earlier),
                bad("an earlier run of the command has not ended"),
            ),
            (Err(RuntimeError::Unavailable("away".into())), Finding::Unknown),
            (Err(RuntimeError::NoSuchContainer("c".into())), Finding::Unknown),
            (
                Err(RuntimeError::Refused("no such program".into())),
                bad("no such program"),
            ),
        ] {
            assert_eq!(of_command(executed.clone()), expected, "{executed:?}");
        }
    }
}
