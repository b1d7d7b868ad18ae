//! Agents that lie, hang and go away.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::spec::Arch;

/// Nothing waits for it where all is well.
const DEADLINE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

/// An agent that answers each command as it is told.
struct Peer {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Peer {
    fn new() -> (Agent, Self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Agent::connect(ours), Self { stream: theirs, buffer: Vec::new() })
    }

    /// The next command, synchronisations answered; none when the client has hung up.
    async fn hear(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).filter(|byte| *byte != 0xff).collect();
                let command: Value = serde_json::from_slice(&line).unwrap();
                if command["execute"] != "guest-sync-delimited" {
                    return Some(command);
                }
                self.stream.write_all(b"\xff").await.unwrap();
                self.answer(&command["arguments"]["id"]).await;
            } else if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn answer(&mut self, value: &Value) {
        let line = format!("{}\n", json!({ "return": value }));
        // Who has hung up hears nothing.
        let _ = self.stream.write_all(line.as_bytes()).await;
    }

    /// Answers every command until the client has gone.
    async fn serve(&mut self, mut answer: impl FnMut(&str) -> Option<Value>) {
        while let Some(command) = self.hear().await {
            if let Some(value) = answer(command["execute"].as_str().unwrap_or_default()) {
                self.answer(&value).await;
            }
        }
    }
}

fn wanted() -> Wanted {
    Wanted { hostname: Some("web".to_owned()), clock: true, ..Wanted::default() }
}

/// What comes of a guest whose agent answers so.
async fn with(
    answer: impl FnMut(&str) -> Option<Value>,
    deadline: Duration,
) -> Result<Report, IdentityError> {
    let (agent, mut peer) = Peer::new();
    let serving = peer.serve(answer);
    let applying = async { apply(&agent, Arch::host(), &wanted(), deadline).await };
    tokio::select! {
        result = applying => result,
        () = serving => unreachable!("the client holds on to the connection"),
    }
}

fn ended(stdout: &str) -> Value {
    use base64::Engine as _;
    let out = base64::engine::general_purpose::STANDARD.encode(stdout);
    json!({ "exited": true, "exitcode": 0, "out-data": out })
}

/// As Unix time has it in nanoseconds, so much from now.
fn time(seconds: i64) -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    json!(i64::try_from(now.as_nanos()).unwrap() + seconds * 1_000_000_000)
}

const ANSWER: &str = "midge-identity 1\nclock done 1 x\nhostname done 1 web\nfact vmgenid none\n\
     fact boot-id 0e6f0d81-ef07-4548-af29-95436584f8d9\nend\n";

/// The times that it tells are so many seconds off, before and after.
fn good(before: i64, after: i64) -> impl FnMut(&str) -> Option<Value> {
    let mut offset = before;
    move |command| {
        Some(match command {
            "guest-get-time" => time(offset),
            "guest-exec" => json!({ "pid": 7 }),
            _ => {
                offset = after;
                ended(ANSWER)
            }
        })
    }
}

#[tokio::test]
async fn a_good_agent_confirms() {
    let report = with(good(-3600, 0), DEADLINE).await.unwrap();
    assert!(report.confirmed(), "{}", report.unconfirmed());
    let offset = report.clock_offset.unwrap();
    assert!(offset.us.unsigned_abs() <= offset.uncertain_us + 20_000, "{offset:?}");
}

#[tokio::test]
async fn a_clock_that_stays_wrong_is_no_success_whatever_the_guest_says() {
    let report = with(good(-3600, -3600), DEADLINE).await.unwrap();
    assert!(!report.confirmed());
    assert_eq!(report.items[&ItemName::Clock].state, State::Failed);
}

#[tokio::test]
async fn a_silent_agent_is_given_up_at_each_step() {
    for silent in ["guest-get-time", "guest-exec", "guest-exec-status"] {
        let mut answers = good(0, 0);
        let answer = |command: &str| if command == silent { None } else { answers(command) };
        let start = Instant::now();
        let error = with(answer, SHORT).await.unwrap_err();
        assert!(error.is_timeout(), "{silent}: {error:?}");
        assert!(start.elapsed() < DEADLINE, "{silent}");
    }
    // A program that never ends.
    let mut answers = good(0, 0);
    let answer = |command: &str| match command {
        "guest-exec-status" => Some(json!({ "exited": false })),
        other => answers(other),
    };
    assert!(with(answer, SHORT).await.unwrap_err().is_timeout());
}

#[tokio::test]
async fn an_agent_that_goes_away_is_an_error() {
    for last in ["guest-get-time", "guest-exec", "guest-exec-status"] {
        let (agent, mut peer) = Peer::new();
        let serving = async move {
            let mut answers = good(0, 0);
            while let Some(command) = peer.hear().await {
                let name = command["execute"].as_str().unwrap().to_owned();
                if name == last {
                    return;
                }
                peer.answer(&answers(&name).unwrap()).await;
            }
        };
        let wanted = wanted();
        let (result, ()) = tokio::join!(apply(&agent, Arch::host(), &wanted, DEADLINE), serving);
        assert!(matches!(result, Err(IdentityError::Agent(e)) if e.is_closed()), "{last}");
    }
}

#[tokio::test]
async fn lies_are_errors() {
    let lying = |lie: &'static str, value: Value| {
        let mut answers = good(0, 0);
        move |command: &str| if command == lie { Some(value.clone()) } else { answers(command) }
    };
    for value in [json!(null), json!("soon"), json!({ "time": 1 })] {
        let error = with(lying("guest-get-time", value), DEADLINE).await.unwrap_err();
        assert!(matches!(error, IdentityError::Time), "{error:?}");
    }
    let error = with(lying("guest-exec", json!({ "pid": "seven" })), DEADLINE).await.unwrap_err();
    assert!(matches!(error, IdentityError::Agent(_)), "{error:?}");
    let statuses = [
        json!({ "exited": true }),
        json!({ "exited": "yes" }),
        json!({ "exited": true, "exitcode": 0, "out-data": "not base64" }),
    ];
    for value in statuses {
        let error = with(lying("guest-exec-status", value), DEADLINE).await.unwrap_err();
        assert!(matches!(error, IdentityError::Agent(_)), "{error:?}");
    }
    for said in ["", "all is well", &ANSWER.replace("hostname done 1 web\n", "")] {
        let error = with(lying("guest-exec-status", ended(said)), DEADLINE).await.unwrap_err();
        assert!(matches!(error, IdentityError::Report(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_program_that_fails_says_why() {
    use base64::Engine as _;
    let err = base64::engine::general_purpose::STANDARD.encode("a fault of its own\n");
    let failed = json!({ "exited": true, "exitcode": 1, "err-data": err });
    let mut answers = good(0, 0);
    let answer = |command: &str| {
        if command == "guest-exec-status" { Some(failed.clone()) } else { answers(command) }
    };
    let error = with(answer, DEADLINE).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("exit status 1") && text.contains("a fault of its own"), "{text}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_put_there_first() {
    let (agent, mut peer) = Peer::new();
    let serving = async {
        let mut answers = good(0, 0);
        let mut started = Vec::new();
        while let Some(command) = peer.hear().await {
            let name = command["execute"].as_str().unwrap().to_owned();
            let path = command["arguments"]["path"].as_str().unwrap_or_default().to_owned();
            if name != "guest-exec" {
                peer.answer(&answers(&name).unwrap()).await;
                continue;
            }
            started.push(path);
            if started.len() == 1 {
                let refused =
                    json!({ "error": { "class": "GenericError", "desc": "No such file or directory" } });
                peer.stream.write_all(format!("{refused}\n").as_bytes()).await.unwrap();
            } else {
                peer.answer(&json!({ "pid": started.len() })).await;
            }
            if started.len() == 3 {
                let status = peer.hear().await.unwrap();
                assert_eq!(status["execute"], "guest-exec-status");
                peer.answer(&ended(ANSWER)).await;
                peer.hear().await.unwrap();
                peer.answer(&time(0)).await;
                peer.hear().await.unwrap();
                peer.answer(&time(0)).await;
                break;
            }
        }
        started
    };
    let wanted = wanted();
    let (report, started) = tokio::join!(apply(&agent, Arch::host(), &wanted, DEADLINE), serving);
    assert!(report.unwrap().confirmed());
    assert_eq!(started[0], started[2]);
    assert_eq!(started[1], "/bin/sh");
}
