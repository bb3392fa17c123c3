//! The program in the demo's and the tests' images: a small HTTP server, and the ways a container can misbehave.
//! Run by containers that `deploy/demo-app/make-image.sh` made the image for.
//!
//! Invariant: std only, linked statically, so that an image holds this one file and needs no registry.
//!
//! | arguments | what it does |
//! |---|---|
//! | (none), `serve` | HTTP on `$PORT` (8080): `/` tells version, pod and uptime, `/healthz` says `ok`; TERM ends it with 0 |
//! | `exit N [SECONDS]` | ends with code N, after SECONDS |
//! | `sleep` | waits; TERM ends it with 143 |
//! | `eat MIB` | takes and touches that much memory, then waits |
//! | `stubborn` | waits and ignores TERM; only KILL ends it |
//! | `get HOST:PORT [PATH]` | prints the body of one HTTP answer; 1 when there is none |
//! | `print TEXT…` | prints the words and ends |
//! | `count` | prints 0, 1, 2 and so on, twenty a second |
//! | `env` | prints the environment and ends |

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long a server goes on answering after TERM: requests that are under way, and those that were sent
/// before their sender heard of the end.
const LINGER: Duration = Duration::from_millis(200);
/// The longest a single request may hold up the end.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

static TERMINATED: AtomicBool = AtomicBool::new(false);
static BUSY: AtomicUsize = AtomicUsize::new(0);

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [] | ["serve"] => serve(),
        ["exit", code] => return exit(code, "0"),
        ["exit", code, seconds] | ["exit", code, "after", seconds] => return exit(code, seconds),
        ["sleep"] => wait_for_ever(),
        ["eat", mib] => eat(mib),
        ["stubborn"] => {
            on_term(SIG_IGN);
            say("ignoring TERM");
            wait_for_ever()
        }
        ["get", address] => get(address, "/"),
        ["get", address, path] => get(address, path),
        ["print", words @ ..] => {
            say(&words.join(" "));
            Ok(())
        }
        ["count"] => count(),
        ["env"] => {
            env::vars().for_each(|(name, value)| say(&format!("{name}={value}")));
            Ok(())
        }
        other => Err(io::Error::other(format!("unknown arguments: {}", other.join(" ")))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line; a reader that went away is no reason to end.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn exit(code: &str, seconds: &str) -> ExitCode {
    match (
        code.parse::<u8>(),
        seconds.parse::<f64>().map(Duration::try_from_secs_f64),
    ) {
        (Ok(code), Ok(Ok(wait))) => {
            thread::sleep(wait);
            ExitCode::from(code)
        }
        _ => {
            eprintln!("error: exit needs a code from 0 to 255 and seconds");
            ExitCode::FAILURE
        }
    }
}

fn count() -> io::Result<()> {
    for n in 0_u64.. {
        say(&n.to_string());
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn wait_for_ever() -> io::Result<()> {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn eat(mib: &str) -> io::Result<()> {
    let mib: usize = mib
        .parse()
        .map_err(|_| io::Error::other(format!("`{mib}` is not a number of MiB")))?;
    let mut eaten = Vec::with_capacity(mib);
    for _ in 0..mib {
        // Written page by page: memory counts only once it is touched.
        let mut piece = vec![0_u8; 1 << 20];
        piece.iter_mut().step_by(4096).for_each(|b| *b = 1);
        eaten.push(std::hint::black_box(piece));
    }
    say(&format!("holding {} MiB", eaten.len()));
    wait_for_ever()
}

fn get(address: &str, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(REQUEST_LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other("not an HTTP answer"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    say(body.trim_end());
    Ok(())
}

fn serve() -> io::Result<()> {
    let port: u16 = match env::var("PORT") {
        Ok(text) => text
            .parse()
            .map_err(|_| io::Error::other(format!("PORT `{text}` is not a port")))?,
        Err(_) => 8080,
    };
    let started = Instant::now();
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    on_term(note_term as *const () as usize);
    say(&format!("listening on port {port}"));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            BUSY.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                // A client that goes away in the middle concerns nobody else.
                let _ = answer(stream, started);
                BUSY.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    while !TERMINATED.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(10));
    }
    let told = Instant::now();
    while told.elapsed() < LINGER || (BUSY.load(Ordering::SeqCst) > 0 && told.elapsed() < REQUEST_LIMIT) {
        thread::sleep(Duration::from_millis(10));
    }
    say("stopped");
    Ok(())
}

fn answer(mut stream: TcpStream, started: Instant) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_LIMIT))?;
    let mut request = BufReader::new(stream.try_clone()?.take(64 << 10));
    let mut line = String::new();
    request.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    // The head is read to its end: closing with unread bytes would reset the connection.
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (status, body) = match path.as_str() {
        "/" => ("200 OK", about(started)),
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        _ => ("404 Not Found", "not found\n".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

fn about(started: Instant) -> String {
    let version = env::var("APP_VERSION").unwrap_or_else(|_| "dev".to_owned());
    let pod = env::var("POD_NAME")
        .or_else(|_| fs::read_to_string("/etc/hostname"))
        .unwrap_or_default();
    format!(
        "{{\"version\":\"{}\",\"pod\":\"{}\",\"uptimeSeconds\":{}}}\n",
        escape(version.trim()),
        escape(pod.trim()),
        started.elapsed().as_secs()
    )
}

/// The characters that JSON does not take as they are; control characters are left out.
fn escape(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c => vec![c],
        })
        .collect()
}

const SIGTERM: i32 = 15;
/// The C library's SIG_IGN.
const SIG_IGN: usize = 1;

extern "C" fn note_term(_signal: i32) {
    TERMINATED.store(true, Ordering::SeqCst);
}

/// Sets what TERM does: the address of a handler, or [`SIG_IGN`].
#[allow(
    unsafe_code,
    reason = "std cannot set a signal's action, and this program has no dependencies"
)]
fn on_term(action: usize) {
    unsafe extern "C" {
        fn signal(number: i32, action: usize) -> usize;
    }
    // SAFETY: `signal` is the C library's, which std links; the handler only stores to an atomic, which is
    // allowed in a signal handler, and lives as long as the program.
    unsafe {
        signal(SIGTERM, action);
    }
}
