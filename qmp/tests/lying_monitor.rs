//! The monitor client against a peer that is slow, newer than us, wrong or hostile: what a real QEMU does not do on
//! request. The first four tests hold the defects of `qapi`'s own client that made us write this one.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::time::Duration;

use qapi::qmp as q;
use qmp::{Error, ErrorClass, Events, Monitor, ProtocolError};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

const DEADLINE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(20);
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob", "new"]}}"#;

/// The other side of a monitor's socket.
struct Peer(BufReader<UnixStream>);

impl Peer {
    async fn say(&mut self, line: &str) {
        self.bytes(format!("{line}\r\n").as_bytes()).await;
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        // A client that has hung up on a lying peer is what some tests want.
        let _ = self.0.get_mut().write_all(bytes).await;
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        let count = self.0.read_line(&mut line).await.expect("a line");
        assert_ne!(count, 0, "the client hung up");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Hears a command and answers it.
    async fn serve(&mut self, name: &str, value: Value) -> Value {
        let command = self.hear().await;
        assert_eq!(command["execute"], name);
        self.answer(&command, value).await;
        command
    }

    async fn answer(&mut self, command: &Value, value: Value) {
        self.say(&json!({"return": value, "id": command["id"]}).to_string()).await;
    }
}

/// A client and its peer, past the handshake.
async fn connected() -> (Monitor, Events, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut peer = Peer(BufReader::new(theirs));
    let serve = async {
        peer.say(GREETING).await;
        let command = peer.serve("qmp_capabilities", json!({})).await;
        assert_eq!(command["arguments"], json!({"enable": ["oob"]}));
    };
    let (connected, ()) = tokio::join!(Monitor::connect(ours, DEADLINE), serve);
    let (monitor, events) = connected.unwrap();
    (monitor, events, peer)
}

async fn status(monitor: &Monitor, peer: &mut Peer) {
    let answer = json!({"status": "running", "running": true});
    let (status, _) =
        tokio::join!(monitor.execute(q::query_status {}, DEADLINE), peer.serve("query-status", answer));
    assert!(status.unwrap().running);
}

#[tokio::test]
async fn defect_1_unknown_events_and_unknown_enum_values_do_not_end_the_stream() {
    let (monitor, mut events, mut peer) = connected().await;
    peer.say(
        r#"{"event": "FROM_THE_FUTURE", "data": {"x": [1]}, "timestamp": {"seconds": 5, "microseconds": 7}}"#,
    )
    .await;
    peer.say(r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "whim"}, "timestamp": {"seconds": -1, "microseconds": -1}}"#)
        .await;
    peer.say(r#"{"event": "STOP", "timestamp": {"seconds": 6, "microseconds": 0}, "newfield": 1}"#).await;
    status(&monitor, &mut peer).await;
    let event = events.recv().await.unwrap();
    assert_eq!((event.name.as_str(), &event.data), ("FROM_THE_FUTURE", &json!({"x": [1]})));
    assert_eq!(
        event.timestamp.duration_since(std::time::UNIX_EPOCH).unwrap(),
        Duration::from_secs(5) + Duration::from_micros(7)
    );
    assert!(event.typed().is_none());
    let event = events.recv().await.unwrap();
    assert!(event.typed().is_none() && event.read::<q::SHUTDOWN>().is_none());
    assert_eq!((event.name.as_str(), &event.data["reason"]), ("SHUTDOWN", &json!("whim")));
    assert!(matches!(events.recv().await.unwrap().typed(), Some(q::Event::STOP { .. })));
}

#[tokio::test]
async fn defect_2_a_late_answer_is_dropped() {
    let (monitor, _events, mut peer) = connected().await;
    let error = monitor.execute(q::query_status {}, SHORT).await.unwrap_err();
    assert!(
        matches!(&error, Error::Timeout { command, after } if command == "query-status" && *after == SHORT)
    );
    let late = peer.hear().await;
    peer.answer(&late, json!({"status": "paused", "running": false})).await;
    status(&monitor, &mut peer).await;
    assert_eq!(monitor.dropped().late, 1);
    assert!(monitor.closed_now().is_none());
}

// Defect 3 is the agent's: see lying_agent.rs.

#[tokio::test]
async fn defect_4_oob_is_found_and_a_slow_command_holds_up_nobody() {
    let (monitor, _events, mut peer) = connected().await;
    assert!(monitor.has_oob());
    let handle = monitor.clone();
    let slow = tokio::spawn(async move { handle.execute(q::query_status {}, DEADLINE).await });
    let first = peer.hear().await;
    assert_eq!(first["execute"], "query-status");
    let serve = async {
        let second = peer.hear().await;
        assert_eq!(second["exec-oob"], "query-yank");
        assert_ne!(first["id"], second["id"]);
        // Out of order.
        peer.answer(&second, json!([])).await;
    };
    let (quick, ()) = tokio::join!(monitor.execute_oob(q::query_yank {}, DEADLINE), serve);
    assert!(quick.unwrap().is_empty());
    peer.answer(&first, json!({"status": "running", "running": true})).await;
    assert!(slow.await.unwrap().unwrap().running);
}

#[tokio::test]
async fn without_oob_on_offer_it_is_neither_enabled_nor_used() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut peer = Peer(BufReader::new(theirs));
    let serve = async {
        peer.say(&GREETING.replace("\"oob\", ", "")).await;
        assert_eq!(peer.serve("qmp_capabilities", json!({})).await["arguments"], json!({}));
    };
    let (connected, ()) = tokio::join!(Monitor::connect(ours, DEADLINE), serve);
    let error = connected.unwrap().0.execute_oob(q::query_yank {}, DEADLINE).await.unwrap_err();
    assert!(matches!(error, Error::NoOob { .. }));
}

#[tokio::test]
async fn a_greeting_that_never_comes_or_is_none() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = Monitor::connect(ours, SHORT).await.unwrap_err();
    assert!(matches!(&error, Error::Timeout { command, .. } if command == "greeting"), "{error}");

    for (said, closes) in
        [("HTTP/1.1 400 Bad Request", false), ("[]", false), ("", true), ("{\"QMP\": 1}", false)]
    {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut peer = Peer(BufReader::new(theirs));
        peer.say(said).await;
        if closes {
            drop(peer);
        }
        let error = Monitor::connect(ours, DEADLINE).await.unwrap_err();
        assert!(
            matches!((&error, closes), (Error::Protocol(_), false) | (Error::Closed, true)),
            "{said}: {error}"
        );
    }
}

#[tokio::test]
async fn answers_to_an_earlier_client_are_ignored() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut peer = Peer(BufReader::new(theirs));
    let serve = async {
        peer.say(r#"{"return": {}, "id": "cafe:1"}"#).await;
        peer.say(GREETING).await;
        peer.say(r#"{"error": {"class": "GenericError", "desc": "stale"}, "id": 17}"#).await;
        peer.serve("qmp_capabilities", json!({})).await;
    };
    let (connected, ()) = tokio::join!(Monitor::connect(ours, DEADLINE), serve);
    let (monitor, _events) = connected.unwrap();
    assert_eq!(monitor.dropped().stray, 2);
    status(&monitor, &mut peer).await;
}

/// What the client makes of a line that the peer says while a command waits.
async fn end_by(line: &[u8]) -> Error {
    let (monitor, mut events, mut peer) = connected().await;
    let answer = async {
        let command = peer.hear().await;
        let own = command["id"].as_str().unwrap();
        let line = String::from_utf8_lossy(line).replace("OWN", own.split(':').next().unwrap());
        if line.contains('\u{fffd}') {
            peer.bytes(b"{\"return\": \"\xc3\x28\"}\n").await;
        } else {
            peer.say(&line).await;
        }
    };
    let (result, ()) = tokio::join!(monitor.execute(q::query_status {}, DEADLINE), answer);
    let error = result.unwrap_err();
    assert_eq!(monitor.closed().await.to_string(), error.to_string(), "one reason for everybody");
    assert!(events.recv().await.is_none());
    let later = monitor.execute(q::query_status {}, DEADLINE).await.unwrap_err();
    assert_eq!(later.to_string(), error.to_string());
    error
}

#[tokio::test]
async fn lies_end_the_connection_with_a_typed_reason() {
    let reason = |error: Error| match error {
        Error::Protocol(reason) => reason,
        other => panic!("{other:?}"),
    };
    for never_sent in [
        r#"{"return": {}, "id": "OWN:99"}"#,
        r#"{"return": {}, "id": "OWN:+2"}"#,
        r#"{"return": {}, "id": "OWN:"}"#,
        // Answered already, in the handshake.
        r#"{"error": {"class": "GenericError", "desc": ""}, "id": "OWN:1"}"#,
    ] {
        let reason = reason(end_by(never_sent.as_bytes()).await);
        assert!(matches!(reason, ProtocolError::UnknownId { .. }), "{never_sent}: {reason}");
    }
    assert!(matches!(reason(end_by(br#"{"return": {}}"#).await), ProtocolError::NoId));
    let unreadable = br#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#;
    let got = reason(end_by(unreadable).await);
    assert!(matches!(&got, ProtocolError::Unreadable { desc } if desc == "JSON parse error"), "{got}");
    assert!(matches!(reason(end_by(GREETING.as_bytes()).await), ProtocolError::SecondGreeting));
    assert!(matches!(reason(end_by(b"\xff").await), ProtocolError::NotJson { .. }), "not UTF-8");
    assert!(matches!(reason(end_by(b"{\"return\": {}").await), ProtocolError::NotJson { .. }));
    let deep = "[".repeat(100_000);
    assert!(matches!(reason(end_by(deep.as_bytes()).await), ProtocolError::NotJson { .. }));
    for neither in [&br#"{"id": 1}"#[..], b"7", b"null", br#"{"error": "x"}"#] {
        assert!(matches!(reason(end_by(neither).await), ProtocolError::NotAMessage { .. }));
    }
}

#[tokio::test]
async fn a_peer_that_closes_in_the_middle_of_a_line() {
    let (monitor, mut events, mut peer) = connected().await;
    let leave = async {
        let command = peer.hear().await;
        peer.say(r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 0}}"#).await;
        peer.bytes(format!("{{\"id\": {}, \"retu", command["id"]).as_bytes()).await;
        drop(peer);
    };
    let (result, ()) = tokio::join!(monitor.execute(q::query_status {}, DEADLINE), leave);
    assert!(matches!(result, Err(Error::Closed)));
    assert_eq!(events.recv().await.unwrap().name, "STOP", "what came before the end is kept");
    assert!(events.recv().await.is_none());
}

#[tokio::test]
async fn last_words_are_heard_although_the_peer_takes_no_more_commands() {
    let (monitor, mut events, mut peer) = connected().await;
    peer.say(r#"{"event": "SHUTDOWN", "data": {}, "timestamp": {"seconds": 1, "microseconds": 0}}"#).await;
    drop(peer);
    // Nobody has read yet: writing fails before reading does.
    assert!(matches!(monitor.execute(q::query_status {}, DEADLINE).await, Err(Error::Closed)));
    assert_eq!(events.recv().await.unwrap().name, "SHUTDOWN");
}

#[tokio::test]
async fn an_answer_of_another_form_or_class() {
    let (monitor, _events, mut peer) = connected().await;
    let (result, _) = tokio::join!(
        monitor.execute(q::query_status {}, DEADLINE),
        peer.serve("query-status", json!({"status": "levitating", "running": true}))
    );
    assert!(matches!(result, Err(Error::Answer { command, .. }) if command == "query-status"));
    let refuse = async {
        let command = peer.hear().await;
        let error = json!({"class": "Novel", "desc": "no"});
        peer.say(&json!({"error": error, "id": command["id"]}).to_string()).await;
    };
    let (result, ()) = tokio::join!(monitor.execute(q::cont {}, DEADLINE), refuse);
    assert_eq!(result.unwrap_err().class(), Some(&ErrorClass::Other("Novel".to_owned())));
    status(&monitor, &mut peer).await;
}

#[tokio::test]
async fn a_cancelled_call_that_was_not_sent_yet_is_never_sent() {
    let (monitor, _events, mut peer) = connected().await;
    // As many as may be under way, then one more in the queue, and one out of band that overtakes it.
    let mut under_way = tokio::task::JoinSet::new();
    for _ in 0..qmp::router::IN_FLIGHT {
        let monitor = monitor.clone();
        under_way.spawn(async move { monitor.execute(q::cont {}, DEADLINE).await });
    }
    let mut sent = Vec::new();
    for _ in 0..qmp::router::IN_FLIGHT {
        sent.push(peer.hear().await);
    }
    assert!(monitor.execute(q::stop {}, SHORT).await.unwrap_err().is_timeout());
    let serve = async {
        let command = peer.hear().await;
        assert_eq!(command["exec-oob"], "query-yank");
        peer.answer(&command, json!([])).await;
    };
    let (yank, ()) = tokio::join!(monitor.execute_oob(q::query_yank {}, DEADLINE), serve);
    yank.unwrap();
    for command in &sent {
        peer.answer(command, json!({})).await;
    }
    while let Some(done) = under_way.join_next().await {
        done.unwrap().unwrap();
    }
    status(&monitor, &mut peer).await;
}

#[tokio::test]
async fn cancelling_at_any_moment_disturbs_nobody() {
    let (monitor, _events, mut peer) = connected().await;
    // A line much longer than the socket takes at once, cut off while it is being written.
    let long = json!({"x": "y".repeat(4 << 20)});
    {
        let call = monitor.execute_raw("long", long.clone(), DEADLINE);
        tokio::pin!(call);
        for _ in 0..50 {
            tokio::select! {
                biased;
                result = &mut call => panic!("{result:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    let heard = async {
        let command = peer.hear().await;
        assert_eq!(command["arguments"], long, "whole, although its caller is gone");
        peer.answer(&command, json!({})).await;
        peer.serve("query-status", json!({"status": "running", "running": true})).await;
    };
    let (status, ()) = tokio::join!(monitor.execute(q::query_status {}, DEADLINE), heard);
    assert!(status.unwrap().running);
    assert_eq!(monitor.dropped().late, 1);
}

#[tokio::test]
async fn a_slow_event_reader_loses_nothing_and_stalls_nobody() {
    let (monitor, mut slow, mut peer) = connected().await;
    let mut second = monitor.subscribe();
    for number in 0..5_000 {
        let event =
            json!({"event": "E", "data": {"n": number}, "timestamp": {"seconds": 1, "microseconds": 0}});
        peer.say(&event.to_string()).await;
    }
    status(&monitor, &mut peer).await;
    for number in 0..5_000 {
        assert_eq!(slow.recv().await.unwrap().data["n"], number);
        assert_eq!(second.recv().await.unwrap().data["n"], number);
    }
    assert!(slow.try_recv().is_none());
}

#[tokio::test]
async fn dropping_the_last_handle_hangs_up() {
    let (monitor, mut events, mut peer) = connected().await;
    let other = monitor.clone();
    drop(monitor);
    status(&other, &mut peer).await;
    drop(other);
    let mut line = String::new();
    assert_eq!(peer.0.read_line(&mut line).await.unwrap(), 0);
    assert!(events.recv().await.is_none());
}
