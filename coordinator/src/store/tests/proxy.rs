//! A TCP proxy that loses what is to be lost. Used by the tests of the etcd store.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Requests arrive, answers are lost.
    Mute,
    /// Nothing passes; connections are closed.
    Cut,
}

pub struct Proxy {
    port: u16,
    mode: Arc<watch::Sender<Mode>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let mut tasks = JoinSet::new();
        let modes = mode.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, port, modes.subscribe()));
            }
        });
        Self {
            port: own,
            mode,
            _tasks: tasks,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn serve(client: TcpStream, port: u16, mut modes: watch::Receiver<Mode>) {
    if *modes.borrow_and_update() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut mute = *modes.borrow() == Mode::Mute;
    loop {
        tokio::select! {
            n = from_client.read(&mut up) => match n {
                Ok(n) if n > 0 && to_server.write_all(&up[..n]).await.is_ok() => {}
                _ => return,
            },
            n = from_server.read(&mut down) => match n {
                Ok(n) if n > 0 && (mute || to_client.write_all(&down[..n]).await.is_ok()) => {}
                _ => return,
            },
            changed = modes.changed() => {
                // What was lost on a connection is missed on it: only a new one can pass again.
                if changed.is_err() || *modes.borrow() != Mode::Mute {
                    return;
                }
                mute = true;
            }
        }
    }
}
