//! A peer that floods us: a typed end and bounded memory. Each test looks at the peak memory of the whole process,
//! so they stand in a file (and thus a process) of their own and run as one.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::time::Duration;

use qmp::agent::Agent;
use qmp::{Error, Monitor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const DEADLINE: Duration = Duration::from_mins(2);
const GREETING: &[u8] = b"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 0, \"major\": 9}}}}\n";

/// The most memory this process ever held, in bytes (proc(5), `VmHWM`).
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Writes `piece` again and again; gives how much was taken before the client hung up, at most `most`.
async fn flood(stream: &mut UnixStream, piece: &[u8], most: usize) -> usize {
    let mut written = 0;
    while written < most && stream.write_all(piece).await.is_ok() {
        written += piece.len();
    }
    written
}

#[tokio::test]
async fn a_flood_has_a_typed_end_and_bounded_memory() {
    let start = peak();
    hundred_megabytes_without_a_newline().await;
    let line = peak() - start;
    assert!(line < 64 << 20, "a monitor's endless line took {} MB", line >> 20);

    hundred_megabytes_before_the_sentinel().await;
    let stale = peak() - start;
    assert!(stale < 64 << 20, "an agent's stale bytes took {} MB", stale >> 20);

    events_that_nobody_reads().await;
    let events = peak() - start;
    assert!(events < 512 << 20, "unread events took {} MB", events >> 20);
}

async fn hundred_megabytes_without_a_newline() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let peer = tokio::spawn(async move {
        theirs.write_all(GREETING).await.unwrap();
        flood(&mut theirs, &vec![b'['; 1 << 16], 100 << 20).await
    });
    let error = Monitor::connect(ours, DEADLINE).await.unwrap_err();
    assert!(matches!(error, Error::TooLong { limit } if limit == 16 << 20), "{error}");
    let written = peer.await.unwrap();
    assert!(written < 20 << 20, "{written} bytes were taken");
}

async fn hundred_megabytes_before_the_sentinel() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let peer = tokio::spawn(async move {
        let mut request = vec![0; 200];
        let count = theirs.read(&mut request).await.unwrap();
        let request: serde_json::Value = serde_json::from_slice(&request[1..count]).unwrap();
        assert_eq!(flood(&mut theirs, &vec![b'x'; 1 << 16], 100 << 20).await, 100 << 20);
        let answer = format!("\n{{\"return\": {}}}\n", request["arguments"]["id"]);
        theirs.write_all(b"\xff").await.unwrap();
        theirs.write_all(answer.as_bytes()).await.unwrap();
    });
    Agent::connect(ours).sync(DEADLINE).await.unwrap();
    peer.await.unwrap();
}

async fn events_that_nobody_reads() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let peer = tokio::spawn(async move {
        theirs.write_all(GREETING).await.unwrap();
        let mut request = vec![0; 200];
        let count = theirs.read(&mut request).await.unwrap();
        let request: serde_json::Value = serde_json::from_slice(&request[..count]).unwrap();
        let answer = format!("{{\"return\": {{}}, \"id\": {}}}\n", request["id"]);
        theirs.write_all(answer.as_bytes()).await.unwrap();
        let event = "{\"event\": \"E\", \"data\": {}}\n".repeat(1 << 10);
        flood(&mut theirs, event.as_bytes(), 100 << 20).await
    });
    let (monitor, mut events) = Monitor::connect(ours, DEADLINE).await.unwrap();
    let error = monitor.closed().await;
    assert!(matches!(error, Error::EventBacklog { .. }), "{error}");
    assert!(peer.await.unwrap() < 100 << 20);
    // What was taken is still there.
    let mut count = 0;
    while events.recv().await.is_some() {
        count += 1;
    }
    assert!(count > 50_000, "{count} events");
}
