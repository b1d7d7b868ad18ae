//! The agent client against a peer that is slow, stale, wrong or not there.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::time::{Duration, SystemTime};

use qmp::agent::{Agent, Exec, Exit, Shutdown};
use qmp::{Error, ProtocolError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const DEADLINE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(20);

/// The agent's side of the socket.
struct Peer {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Peer {
    fn new() -> (Agent, Self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Agent::connect(ours), Self { stream: theirs, buffer: Vec::new() })
    }

    /// A command; true if the flushing byte came before it.
    async fn hear(&mut self) -> (bool, Value) {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let flushed = line[0] == 0xff;
                return (flushed, serde_json::from_slice(&line[usize::from(flushed)..]).expect("JSON"));
            }
            assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0, "the client hung up");
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Hears a synchronisation and answers it as a real agent does: with an error for the byte first.
    async fn serve_sync(&mut self) {
        let (flushed, command) = self.hear().await;
        assert!(flushed);
        self.say(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, stray\"}}\n")
            .await;
        self.answer_sync(&command).await;
    }

    async fn answer_sync(&mut self, command: &Value) {
        assert_eq!(command["execute"], "guest-sync-delimited");
        let answer = format!("{{\"return\": {}}}\n", command["arguments"]["id"]);
        self.say(b"\xff").await;
        self.say(answer.as_bytes()).await;
    }

    async fn serve(&mut self, name: &str, answer: Value) {
        let (flushed, command) = self.hear().await;
        assert!(!flushed);
        assert_eq!(command["execute"], name);
        assert!(command.get("id").is_none(), "agents before QEMU 4.0 refuse ids");
        self.say(format!("{answer}\n").as_bytes()).await;
    }
}

#[tokio::test]
async fn defect_3_the_command_after_a_timeout_gets_its_own_answer() {
    let (agent, mut peer) = Peer::new();
    let serve = async {
        peer.serve_sync().await;
        peer.hear().await
    };
    let (error, _) = tokio::join!(agent.info(SHORT), serve);
    assert!(matches!(&error.unwrap_err(), Error::Timeout { command, .. } if command == "guest-info"));
    // The late answer, in two halves around the next command's synchronisation.
    let serve = async {
        peer.say(b"{\"return\": {\"version\": \"la").await;
        let (flushed, sync) = peer.hear().await;
        assert!(flushed);
        peer.say(b"te\", \"supported_commands\": []}}\n").await;
        peer.answer_sync(&sync).await;
        peer.serve("guest-ping", json!({"return": {}})).await;
        peer.serve("guest-info", json!({"return": {"version": "9", "supported_commands": []}})).await;
    };
    let calls = async {
        agent.ping(DEADLINE).await.unwrap();
        agent.info(DEADLINE).await.unwrap()
    };
    let (info, ()) = tokio::join!(calls, serve);
    assert_eq!(info.version, "9");
}

#[tokio::test]
async fn answers_of_earlier_synchronisations_are_discarded() {
    let (agent, mut peer) = Peer::new();
    assert!(agent.sync(SHORT).await.unwrap_err().is_timeout());
    assert!(agent.sync(SHORT).await.unwrap_err().is_timeout());
    let serve = async {
        let first = peer.hear().await.1;
        let second = peer.hear().await.1;
        let third = peer.hear().await.1;
        peer.say(b"half a li").await;
        peer.answer_sync(&first).await;
        peer.say(b"\xff\xff").await;
        peer.answer_sync(&second).await;
        peer.say(b"{\"return\": 12}\n").await;
        peer.answer_sync(&third).await;
        peer.serve("guest-ping", json!({"return": {}})).await;
    };
    let (ping, ()) = tokio::join!(agent.ping(DEADLINE), serve);
    ping.unwrap();
}

#[tokio::test]
async fn a_stale_answer_between_two_calls_is_not_the_next_ones() {
    let (agent, mut peer) = Peer::new();
    let serve = async {
        peer.serve_sync().await;
        peer.serve("guest-ping", json!({"return": {}})).await;
        // As after the guest was put back to the middle of another conversation.
        peer.say(b"{\"return\": {\"pid\": 1}}\n").await;
    };
    let (ping, ()) = tokio::join!(agent.ping(DEADLINE), serve);
    ping.unwrap();
    let serve = async {
        peer.serve_sync().await;
        peer.serve("guest-exec", json!({"return": {"pid": 2}})).await;
    };
    let exec = Exec::new("x");
    let (pid, ()) = tokio::join!(agent.exec(&exec, DEADLINE), serve);
    assert_eq!(pid.unwrap().0, 2);
}

#[tokio::test]
async fn wrong_answers_are_typed_errors_and_the_next_call_works() {
    let (agent, mut peer) = Peer::new();
    for (said, matches) in [
        (
            &b"nonsense\n"[..],
            (|error| matches!(error, ProtocolError::NotJson { .. })) as fn(&ProtocolError) -> bool,
        ),
        (b"{\"return\": \"\xc3\x28\"}\n", |error| matches!(error, ProtocolError::NotJson { .. })),
        (b"{\"event\": \"E\"}\n", |error| matches!(error, ProtocolError::NotAMessage { .. })),
        (b"{\"x\": 1}\n", |error| matches!(error, ProtocolError::NotAMessage { .. })),
    ] {
        let serve = async {
            peer.serve_sync().await;
            peer.hear().await;
            peer.say(said).await;
        };
        let (result, ()) = tokio::join!(agent.ping(DEADLINE), serve);
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Protocol(error) if matches(error)), "{error:?}");
    }
    let serve = async {
        peer.serve_sync().await;
        peer.serve("guest-exec-status", json!({"return": {"exited": true}})).await;
        peer.serve("guest-exec-status", json!({"return": {"exited": "yes"}})).await;
        peer.serve("guest-exec-status", json!({"return": {"exited": true, "exitcode": 1, "out-data": "-"}}))
            .await;
        peer.serve("guest-exec-status", json!({"return": {"exited": true, "exitcode": 3_221_225_477_u32}}))
            .await;
    };
    let calls = async {
        let pid = qmp::agent::Pid(1);
        assert!(matches!(
            agent.exec_wait(pid, DEADLINE).await,
            Err(Error::Protocol(ProtocolError::Nonsense(_)))
        ));
        assert!(matches!(agent.exec_wait(pid, DEADLINE).await, Err(Error::Answer { .. })));
        assert!(matches!(agent.exec_wait(pid, DEADLINE).await, Err(Error::Answer { .. })));
        assert_eq!(agent.exec_wait(pid, DEADLINE).await.unwrap().exit, Exit::Code(-1_073_741_819));
    };
    tokio::join!(calls, serve);
}

#[tokio::test]
async fn an_answer_over_the_limit() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = Agent::connect_with_limit(ours, 1 << 20);
    let mut peer = Peer { stream: theirs, buffer: Vec::new() };
    let serve = async {
        peer.serve_sync().await;
        peer.hear().await;
        peer.say(&vec![b'x'; 3 << 20]).await;
        peer.say(b"the rest of it\n").await;
        peer.serve_sync().await;
        peer.serve("guest-ping", json!({"return": {}})).await;
    };
    let next = async {
        let error = agent.ping(DEADLINE).await.unwrap_err();
        assert!(matches!(error, Error::TooLong { limit } if limit == 1 << 20), "{error}");
        agent.ping(DEADLINE).await
    };
    let (ping, ()) = tokio::join!(next, serve);
    ping.unwrap();
}

#[tokio::test]
async fn a_write_that_claims_too_much_or_nothing() {
    let (agent, mut peer) = Peer::new();
    for count in [0, 4, -1] {
        let first = count == 0;
        let serve = async {
            if first {
                peer.serve_sync().await;
            }
            peer.serve("guest-file-open", json!({"return": 1000})).await;
            peer.serve("guest-file-write", json!({"return": {"count": count, "eof": false}})).await;
            // The abandoned file is closed in the background.
            peer.serve("guest-file-close", json!({"return": {}})).await;
        };
        let (result, ()) = tokio::join!(agent.write_file("/f", b"abc", DEADLINE), serve);
        assert!(matches!(result, Err(Error::Protocol(ProtocolError::Nonsense(_)))), "{count}");
    }
}

#[tokio::test]
async fn shutdown_is_silent_or_refused() {
    let (agent, mut peer) = Peer::new();
    let serve = async {
        peer.serve_sync().await;
        let (_, command) = peer.hear().await;
        assert_eq!(
            (&command["execute"], &command["arguments"]["mode"]),
            (&json!("guest-shutdown"), &json!("halt"))
        );
        let (flushed, sync) = peer.hear().await;
        assert!(!flushed);
        peer.answer_sync(&sync).await;
    };
    let (result, ()) = tokio::join!(agent.shutdown(Shutdown::Halt, DEADLINE), serve);
    result.unwrap();
    let serve = async {
        peer.hear().await;
        peer.say(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}\n").await;
        let (_, sync) = peer.hear().await;
        peer.answer_sync(&sync).await;
        peer.serve("guest-ping", json!({"return": {}})).await;
    };
    let calls = async {
        let error = agent.shutdown(Shutdown::Powerdown, DEADLINE).await.unwrap_err();
        assert!(matches!(&error, Error::Qemu { desc, .. } if desc == "not now"), "{error}");
        agent.ping(DEADLINE).await.unwrap();
    };
    tokio::join!(calls, serve);
    drop(peer);
    assert!(matches!(agent.shutdown(Shutdown::Reboot, DEADLINE).await, Err(Error::Closed)));
}

#[tokio::test]
async fn the_clock_is_set_in_nanoseconds_or_from_the_hardware() {
    let (agent, mut peer) = Peer::new();
    let serve = async {
        peer.serve_sync().await;
        for arguments in [json!({"time": 1_500_000_000_123_456_789_i64}), json!({})] {
            let (_, command) = peer.hear().await;
            assert_eq!((&command["execute"], &command["arguments"]), (&json!("guest-set-time"), &arguments));
            peer.say(b"{\"return\": {}}\n").await;
        }
    };
    let calls = async {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 123_456_789);
        agent.set_time(Some(time), DEADLINE).await.unwrap();
        agent.set_time(None, DEADLINE).await.unwrap();
        let error = agent.set_time(Some(SystemTime::UNIX_EPOCH - DEADLINE), DEADLINE).await.unwrap_err();
        assert!(matches!(error, Error::Protocol(ProtocolError::Nonsense(_))), "{error}");
    };
    tokio::join!(calls, serve);
}
