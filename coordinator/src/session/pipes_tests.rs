//! The table of pipes, and what ends one.

use futures::FutureExt as _;
use proto::wire::ReadLog;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;
use crate::session::registry::{Mode, Registry};

const WITHIN: Duration = Duration::from_secs(10);

fn session(node: &str) -> Arc<Handle> {
    Registry::new(1).open(node, "u", Mode::Full).expect("room").0
}

fn log() -> Kind {
    Kind::Log(ReadLog::default())
}

/// The agent's end of a pipe.
struct Call {
    up: mpsc::Sender<Result<Chunk, Status>>,
    down: BoxStream<'static, Down>,
}

impl Call {
    async fn say(&self, message: chunk::Message) {
        let chunk = Chunk { message: Some(message) };
        self.up.send(Ok(chunk)).await.expect("the reader is there");
    }

    /// Whether the coordinator has ended it.
    fn ended(&mut self) -> bool {
        matches!(self.down.next().now_or_never(), Some(None))
    }
}

fn claim(pipes: &Arc<Pipes>, id: &str, node: &str) -> Result<Call, Status> {
    let (up, chunks) = mpsc::channel(8);
    let down = pipes.claim(id, node, ReceiverStream::new(chunks).boxed())?;
    Ok(Call { up, down: down.boxed() })
}

/// Waits until the session has a pipe to ask for, and gives its id.
async fn asked(session: &Handle) -> String {
    session.asked.notified().await;
    session.next_ask().expect("asked").id
}

async fn opened(pipes: &Arc<Pipes>, session: &Arc<Handle>) -> (Pipe, Call) {
    let agent = async {
        let id = asked(session).await;
        claim(pipes, &id, &session.node).expect("taken")
    };
    let (pipe, call) = tokio::join!(pipes.open(session, log()), agent);
    (pipe.expect("open"), call)
}

fn text(next: Option<Result<PipeData, PipeError>>) -> Result<String, PipeError> {
    let data = next.expect("something comes")?;
    Ok(String::from_utf8(data.data).expect("text"))
}

fn data(len: usize) -> chunk::Message {
    chunk::Message::Data(PipeData {
        data: vec![b'x'; len],
        stderr: false,
    })
}

fn ending(reason: pipe_end::Reason, message: &str) -> chunk::Message {
    chunk::Message::End(PipeEnd {
        reason: reason.into(),
        message: message.into(),
    })
}

#[tokio::test(start_paused = true)]
async fn only_the_node_that_was_asked_opens_it_and_once() {
    let pipes = Pipes::new(9, 9, WITHIN);
    let one = session("n1");
    let agent = async {
        let id = asked(&one).await;
        let refused = |node: &str, id: &str| claim(&pipes, id, node).err().expect("refused").code();
        assert_eq!(refused("n2", &id), Code::PermissionDenied);
        assert_eq!(refused("n1", "some-id"), Code::NotFound);
        let call = claim(&pipes, &id, "n1").expect("taken");
        assert_eq!(refused("n1", &id), Code::NotFound);
        call
    };
    let (pipe, call) = tokio::join!(pipes.open(&one, log()), agent);
    let mut pipe = pipe.expect("open");
    call.say(data(3)).await;
    assert_eq!(text(pipe.next().await), Ok("xxx".into()));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_opened_in_time_is_forgotten() {
    let pipes = Pipes::new(9, 9, WITHIN);
    let one = session("n1");
    let late = pipes.open(&one, log()).await.err().expect("late");
    assert_eq!(
        late.to_string(),
        "the agent of node n1 did not open a pipe within 10s; try again"
    );
    assert!(pipes.is_empty());
    let id = one.next_ask().expect("asked").id;
    assert_eq!(claim(&pipes, &id, "n1").err().expect("refused").code(), Code::NotFound);

    // The caller went away while it waited.
    assert!(pipes.open(&one, log()).now_or_never().is_none());
    let id = one.next_ask().expect("asked").id;
    assert_eq!(claim(&pipes, &id, "n1").err().expect("refused").code(), Code::NotFound);
    assert!(pipes.is_empty());
    assert_eq!(pipes.lock().awaited.len(), 0, "what nobody waits for is kept");
}

#[tokio::test(start_paused = true)]
async fn places_are_counted_by_node_and_in_all_and_are_free_again() {
    let pipes = Pipes::new(3, 2, WITHIN);
    let (one, two) = (session("n1"), session("n2"));
    let (first, mut call) = opened(&pipes, &one).await;
    let _second = opened(&pipes, &one).await;
    let full = PipeError::NodeFull {
        node: "n1".into(),
        most: 2,
    };
    assert_eq!(pipes.open(&one, log()).await.err(), Some(full));
    let _third = opened(&pipes, &two).await;
    assert_eq!(pipes.open(&two, log()).await.err(), Some(PipeError::Full(3)));
    assert!(!call.ended());
    drop(first);
    assert!(call.ended(), "the agent's call goes on without a reader");
    assert_eq!(pipes.len(), 2);
    let _again = opened(&pipes, &one).await;
}

#[tokio::test(start_paused = true)]
async fn every_end_is_told_for_what_it_is() {
    use pipe_end::Reason;
    let pipes = Pipes::new(9, 9, WITHIN);
    let one = session("n1");
    let lost = PipeError::Lost("n1".into());
    let broke = |what| PipeError::Protocol {
        node: "n1".into(),
        what,
    };
    for (message, expected) in [
        (Some(ending(Reason::Done, "")), None),
        (
            Some(ending(Reason::Refused, "no")),
            Some(PipeError::Refused("no".into())),
        ),
        (Some(ending(Reason::Busy, "no")), Some(PipeError::Busy("no".into()))),
        (Some(ending(Reason::Failed, "no")), Some(PipeError::Failed("no".into()))),
        (Some(data(flow::CHUNK + 1)), Some(broke("a message too long"))),
        (Some(chunk::Message::Open("x".into())), Some(broke("a second opening"))),
        (None, Some(lost)),
    ] {
        let (mut pipe, call) = opened(&pipes, &one).await;
        call.say(data(flow::CHUNK)).await;
        match message {
            Some(message) => call.say(message).await,
            None => drop(call),
        }
        assert_eq!(text(pipe.next().await).map(|t| t.len()), Ok(flow::CHUNK));
        assert_eq!(pipe.next().await.map(|e| e.expect_err("an end")), expected);
        assert!(pipe.next().await.is_none(), "{expected:?} and it goes on");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_s_end_ends_its_pipes() {
    let pipes = Pipes::new(9, 9, WITHIN);
    let one = session("n1");
    let (mut pipe, call) = opened(&pipes, &one).await;
    // What the agent still says is not believed.
    call.say(data(3)).await;
    one.end();
    assert_eq!(text(pipe.next().await), Err(PipeError::Lost("n1".into())));
    assert_eq!(pipes.open(&one, log()).await.err(), Some(PipeError::Lost("n1".into())));
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_coordinator_leads_no_more_says_so_to_its_readers() {
    let pipes = Pipes::new(9, 9, WITHIN);
    let one = session("n1");
    let (mut pipe, mut call) = opened(&pipes, &one).await;
    one.set_demoted();
    one.end();
    assert_eq!(text(pipe.next().await), Err(PipeError::Demoted("n1".into())));
    drop(pipe);
    assert!(call.ended(), "the agent is told to end it");
    let late = pipes.open(&one, log()).await.err().expect("ended");
    assert_eq!(
        late.to_string(),
        "another coordinator leads by now; ask it for the logs of node n1: try again"
    );
}
