//! The load generator counts what befalls its requests: against servers that do each wrong thing, and one that does
//! none.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use harness::{
    eventually,
    load::{Load, Options, Report, To},
};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server on a free port that does this with each connection once its request has come.
fn server(act: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let act = Arc::new(act);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let act = Arc::clone(&act);
            thread::spawn(move || {
                let _ = stream.peek(&mut [0]);
                act(stream);
            });
        }
    });
    address
}

fn read_request(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
}

fn says(answer: &'static str) -> SocketAddr {
    server(move |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(answer.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
    })
}

/// Loads until there are results.
fn load(to: To, limit: Duration) -> Report {
    let load = Load::start(Options {
        limit,
        ..Options::new(to)
    });
    eventually("some results", || match load.so_far() {
        report if report.sent >= 20 => Ok(()),
        report => Err(report.to_string()),
    });
    load.stop()
}

#[test]
fn each_way_to_fail_is_counted() {
    let refused = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port");
    // Closing with unread bytes resets the connection.
    let reset = server(drop);
    let hangs = server(|_stream| thread::sleep(Duration::from_secs(3600)));
    for (to, what) in [
        (refused, Some("refused")),
        (reset, Some("reset")),
        (hangs, Some("timeout")),
        (
            says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
            Some("status 503"),
        ),
        (
            says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"),
            Some("cut short"),
        ),
        (says(""), Some("cut short")),
        (says(GOOD), None),
    ] {
        let limit = if to == hangs { 100 } else { 20_000 };
        let report = load(To::Fixed(to), Duration::from_millis(limit));
        let expected = what.map(|what| (what.to_owned(), report.sent));
        assert_eq!(report.failed, expected.into_iter().collect(), "{report}");
        assert_eq!(report.ok + report.failures(), report.sent, "{report}");
        assert_eq!(
            report.by_address.get(&to.to_string()).copied().unwrap_or_default(),
            report.ok
        );
        assert_eq!(report.first.is_empty(), what.is_none(), "{report}");
    }
}

#[test]
fn the_endpoints_are_followed_and_kept_while_they_cannot_be_read() {
    let (a, b) = (says(GOOD), says(GOOD));
    let shown = Arc::new(Mutex::new(vec![a, b]));
    let broken = Arc::new(AtomicBool::new(false));
    let (listed, breaks) = (Arc::clone(&shown), Arc::clone(&broken));
    let coordinator = server(move |mut stream| {
        read_request(&mut stream);
        if breaks.load(Ordering::SeqCst) {
            return;
        }
        let one = |a: &SocketAddr| serde_json::json!({"addresses": [{"ip": a.ip().to_string()}], "ports": [{"port": a.port()}]});
        let mut subsets: Vec<_> = listed.lock().expect("a lock").iter().map(one).collect();
        // What is not ready gets nothing.
        subsets.push(serde_json::json!({"notReadyAddresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 9}]}));
        let body = serde_json::json!({ "subsets": subsets }).to_string();
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    });
    let load = Load::start(Options::new(To::Endpoints {
        http: coordinator.to_string(),
        namespace: "default".into(),
        name: "web".into(),
    }));
    let until = |what: &str, holds: &dyn Fn(&Report) -> bool| {
        eventually(what, || match load.so_far() {
            report if holds(&report) => Ok(report),
            report => Err(report.to_string()),
        })
    };
    let at = |report: &Report, address: SocketAddr| report.by_address.get(&address.to_string()).copied().unwrap_or(0);
    let report = until("both have requests", &|r| at(r, a) >= 20 && at(r, b) >= 20);
    assert!(at(&report, a).abs_diff(at(&report, b)) <= 2, "in turn: {report:?}");

    broken.store(true, Ordering::SeqCst);
    let unread = until("the endpoints cannot be read", &|r| r.unread >= 1);
    until("and the requests go on", &|r| at(r, a) > at(&unread, a) + 20);
    broken.store(false, Ordering::SeqCst);

    shown.lock().expect("a lock").retain(|x| *x == b);
    until("only one is left", &|r| at(r, b) > at(r, a) + 60);
    shown.lock().expect("a lock").clear();
    let end = until("nobody is left", &|r| r.failures() >= 5);
    let report = load.stop();
    assert_eq!(report.failed.keys().collect::<Vec<_>>(), ["no address"], "{report}");
    assert!(report.sent >= end.sent);
}
