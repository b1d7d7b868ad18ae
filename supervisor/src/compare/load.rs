//! Requests by HTTP, the same for every guest: a new connection for each, as many at once as is asked for.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::results::Http;
use super::stats::quantile;

/// Into how many parts the time is cut, each of which gives one sample of throughput.
const PARTS: usize = 10;
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes of an answer.
const LARGEST: usize = 16 << 20;
/// How long a client waits after a request that failed at once: a server that refuses is not to be asked a million times.
const AFTER_ERROR: Duration = Duration::from_millis(5);

/// What the clients saw together.
#[derive(Debug, Default)]
struct Seen {
    answers: Vec<u64>,
    latencies: Vec<f64>,
    errors: u64,
    bytes: u64,
    body: u64,
}

/// Lets so many clients ask for `path` for some time. Requests that are under way when the time is over count as nothing.
///
/// # Errors
/// When no client can be made; what the server does wrong is counted.
pub fn run(server: SocketAddr, path: &str, connections: u32, time: Duration) -> io::Result<Http> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = Rc::new(RefCell::new(Seen { answers: vec![0; PARTS], ..Seen::default() }));
    let request = request(path);
    let started = Instant::now();
    let clients = LocalSet::new();
    for _ in 0..connections {
        clients.spawn_local(client(server, request.clone(), started, time, Rc::clone(&seen)));
    }
    // The clients go when this does.
    runtime.block_on(async {
        let _ = tokio::time::timeout(time, clients).await;
    });
    let seen = Rc::try_unwrap(seen).map_or_else(|seen| seen.take(), RefCell::into_inner);
    let mut sorted = seen.latencies;
    sorted.sort_by(f64::total_cmp);
    let at = |q| (!sorted.is_empty()).then(|| quantile(&sorted, q));
    Ok(Http {
        connections,
        seconds: time.as_secs_f64(),
        answers: seen.answers,
        errors: seen.errors,
        body: seen.body,
        bytes: seen.bytes,
        p50: at(0.5),
        p99: at(0.99),
        max: sorted.last().copied(),
    })
}

async fn client(
    server: SocketAddr,
    request: Vec<u8>,
    started: Instant,
    time: Duration,
    seen: Rc<RefCell<Seen>>,
) {
    loop {
        let begun = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, ask(server, &request)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let failed = answer.is_err();
        {
            let mut seen = seen.borrow_mut();
            match answer {
                Ok((bytes, body)) => {
                    let share = started.elapsed().as_secs_f64() / time.as_secs_f64();
                    #[allow(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        clippy::cast_precision_loss,
                        reason = "0 to PARTS"
                    )]
                    let part = (share * PARTS as f64) as usize;
                    if let Some(count) = seen.answers.get_mut(part) {
                        *count += 1;
                        seen.latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
                        seen.bytes += bytes;
                        seen.body = body;
                    }
                }
                Err(e) => {
                    tracing::debug!("a request failed: {e}");
                    seen.errors += 1;
                }
            }
        }
        if failed {
            tokio::time::sleep(AFTER_ERROR).await;
        }
    }
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").into_bytes()
}

/// One request; answers the bytes that came, and how many of them are the body.
async fn ask(server: SocketAddr, request: &[u8]) -> io::Result<(u64, u64)> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    (&mut stream).take(LARGEST as u64).read_to_end(&mut answer).await?;
    let body = body(&answer)?;
    Ok((answer.len() as u64, body.len() as u64))
}

/// The body of a whole answer with status 200 (RFC 9112).
fn body(answer: &[u8]) -> io::Result<&[u8]> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .ok_or_else(|| wrong("no end of the head"))?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    if status != Some("200") {
        return Err(wrong("the status is not 200"));
    }
    let body = &answer[end + 4..];
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if length.is_some_and(|length| length != body.len()) {
        return Err(wrong("the body was cut off"));
    }
    Ok(body)
}

/// The body that a server answers with.
pub fn fetch(server: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&request(path))?;
    let mut answer = Vec::new();
    stream.take(LARGEST as u64).read_to_end(&mut answer)?;
    body(&answer).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_whole_answers_count() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab").unwrap(), b"ab");
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nabc").unwrap(), b"abc");
        for bad in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"[..],
            b"HTTP/1.1 404 No\r\n\r\n",
            b"HTTP/1.1 200",
            b"",
        ] {
            assert!(body(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    /// A server that answers three of four requests and hangs up on the fourth.
    #[test]
    fn answers_and_errors_are_counted_as_the_server_counts_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut good, mut bad) = (0_u64, 0_u64);
            for (index, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let mut head = [0; 256];
                let read = stream.read(&mut head).unwrap_or(0);
                if head[..read].starts_with(b"GET /end ") {
                    break;
                }
                if index % 4 == 3 {
                    bad += 1;
                } else if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_ok() {
                    good += 1;
                }
            }
            (good, bad)
        });
        let seen = run(address, "/x", 2, Duration::from_millis(400)).unwrap();
        let _ = fetch(address, "/end");
        let (good, bad) = server.join().unwrap();
        // Those that were under way at the end are counted by the server alone.
        assert!(
            seen.total() > 10 && good - seen.total() <= 2 && bad - seen.errors <= 2,
            "{seen:?} {good} {bad}"
        );
        assert_eq!((seen.body, seen.connections, seen.answers.len()), (5, 2, PARTS));
        assert!(seen.p50.unwrap() <= seen.p99.unwrap() && seen.p99.unwrap() <= seen.max.unwrap());
    }

    #[test]
    fn nobody_there_is_counted_as_errors() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let seen = run(address, "/", 1, Duration::from_millis(60)).unwrap();
        assert!(seen.total() == 0 && seen.errors > 0 && seen.p50.is_none());
        assert!(fetch(address, "/").is_err());
    }
}
