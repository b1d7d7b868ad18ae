//! Just enough HTTP/1.1: requests without a body, answered in order. Parsing is `httparse`'s.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use crate::command::Command;

/// Longest request head in bytes; a longer one is answered with 431.
pub const MAX_HEAD: usize = 2048;

/// Most header fields of a request.
const MAX_HEADERS: usize = 32;

/// A request that was understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub target: Target,
    /// `HEAD`: the same answer without its body.
    pub head_only: bool,
    /// The client lets the connection stay open.
    pub keep_alive: bool,
    /// Bytes of the buffer that the request took; the next one starts behind them.
    pub length: usize,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// `/`
    Page,
    /// A path that is a command: `/exit?code=3`, `/poweroff`, ...
    Command(Command),
    /// Anything else.
    Unknown,
}

/// Status of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 200
    Ok,
    /// 400
    BadRequest,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 431
    HeadTooLarge,
}

impl Status {
    /// Code and reason as they stand in the status line.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
        }
    }
}

/// Reads the request at the start of `buffer`: `Ok(None)` when more bytes are needed, `Err` with the status that ends the
/// connection when it is no request or one that cannot be served.
pub fn parse(buffer: &[u8]) -> Result<Option<Request>, Status> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() >= MAX_HEAD => return Err(Status::HeadTooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadTooLarge),
        Err(_) => return Err(Status::BadRequest),
    };
    let (Some(method), Some(path), Some(version)) = (head.method, head.path, head.version) else {
        return Err(Status::BadRequest);
    };
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Status::MethodNotAllowed),
    };
    let mut keep_alive = version == 1;
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case("connection") {
            if header.value.eq_ignore_ascii_case(b"close") {
                keep_alive = false;
            } else if header.value.eq_ignore_ascii_case(b"keep-alive") {
                keep_alive = true;
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding")
            || header.name.eq_ignore_ascii_case("content-length") && header.value != b"0"
        {
            // A body would be taken for the next request.
            return Err(Status::BadRequest);
        }
    }
    Ok(Some(Request { target: target(path)?, head_only, keep_alive, length }))
}

fn target(path: &str) -> Result<Target, Status> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let Some(name) = path.strip_prefix('/') else { return Err(Status::BadRequest) };
    if name.is_empty() {
        return Ok(Target::Page);
    }
    let argument = query.split('&').find_map(|pair| pair.strip_prefix("code="));
    match Command::from_parts(name, argument) {
        Some(Command::Help) | None if name == "exit" => Err(Status::BadRequest),
        Some(Command::Help) | None => Ok(Target::Unknown),
        Some(command) => Ok(Target::Command(command)),
    }
}

/// Appends an answer with an HTML or plain text body to `out`.
pub fn respond(out: &mut Vec<u8>, status: Status, body: &str, head_only: bool, keep_alive: bool) {
    let kind = if body.starts_with('<') { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
    let mut head = String::with_capacity(192);
    let _ = write!(
        head,
        "HTTP/1.1 {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: {}\r\n",
        status.text(),
        body.len(),
        if keep_alive { "keep-alive" } else { "close" }
    );
    if status == Status::MethodNotAllowed {
        head.push_str("Allow: GET, HEAD\r\n");
    }
    head.push_str("\r\n");
    out.extend_from_slice(head.as_bytes());
    if !head_only {
        out.extend_from_slice(body.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    fn get(path: &str) -> Result<Option<Request>, Status> {
        parse(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
    }

    fn target_of(path: &str) -> Result<Target, Status> {
        get(path).map(|request| request.expect("the request is complete").target)
    }

    #[test]
    fn the_page_is_at_the_root() {
        let text = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let expected =
            Request { target: Target::Page, head_only: false, keep_alive: true, length: text.len() };
        assert_eq!(parse(text), Ok(Some(expected)));
        assert_eq!(target_of("/?x=1"), Ok(Target::Page));
    }

    #[test]
    fn paths_can_be_commands() {
        assert_eq!(target_of("/exit"), Ok(Target::Command(Command::Exit(0))));
        assert_eq!(target_of("/exit?code=42"), Ok(Target::Command(Command::Exit(42))));
        assert_eq!(target_of("/exit?a=b&code=1"), Ok(Target::Command(Command::Exit(1))));
        assert_eq!(target_of("/poweroff"), Ok(Target::Command(Command::Poweroff)));
        assert_eq!(target_of("/reset"), Ok(Target::Command(Command::Reset)));
        assert_eq!(target_of("/panic"), Ok(Target::Command(Command::Panic)));
        assert_eq!(target_of("/crash"), Ok(Target::Command(Command::Crash)));
    }

    #[test]
    fn exit_with_a_bad_code_is_a_bad_request() {
        for path in ["/exit?code=128", "/exit?code=", "/exit?code=x"] {
            assert_eq!(get(path), Err(Status::BadRequest), "{path}");
        }
    }

    #[test]
    fn other_paths_are_unknown() {
        for path in ["/x", "/help", "//", "/exit/", "/favicon.ico"] {
            assert_eq!(target_of(path), Ok(Target::Unknown), "{path}");
        }
    }

    #[test]
    fn head_and_close_are_seen() {
        let request =
            parse(b"HEAD / HTTP/1.1\r\nConnection: Close\r\n\r\n").expect("valid").expect("complete");
        assert!(request.head_only && !request.keep_alive);
        let request = parse(b"GET / HTTP/1.0\r\n\r\n").expect("valid").expect("complete");
        assert!(!request.keep_alive);
        let request =
            parse(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect("valid").expect("complete");
        assert!(request.keep_alive);
    }

    #[test]
    fn any_prefix_of_a_request_needs_more() {
        let text = b"GET /exit?code=1 HTTP/1.1\r\nHost: example\r\nAccept: */*\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Ok(None), "{end} bytes");
        }
    }

    #[test]
    fn the_next_request_is_left_in_the_buffer() {
        let text = b"GET / HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\n\r\n";
        let first = parse(text).expect("valid").expect("complete");
        let second = parse(&text[first.length..]).expect("valid").expect("complete");
        assert_eq!((first.target, second.target), (Target::Page, Target::Unknown));
    }

    #[test]
    fn junk_is_a_bad_request() {
        for text in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET x HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(parse(text), Err(Status::BadRequest), "{text:?}");
        }
    }

    #[test]
    fn bodies_and_other_methods_are_refused() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"), Err(Status::BadRequest));
        assert_eq!(parse(b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Status::BadRequest));
        assert_eq!(parse(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), Err(Status::MethodNotAllowed));
    }

    #[test]
    fn a_head_without_end_is_too_large() {
        let mut text = b"GET / HTTP/1.1\r\nX: ".to_vec();
        text.resize(MAX_HEAD - 1, b'x');
        assert_eq!(parse(&text), Ok(None));
        text.push(b'x');
        assert_eq!(parse(&text), Err(Status::HeadTooLarge));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(40));
        assert_eq!(parse(many.as_bytes()), Err(Status::HeadTooLarge));
    }

    #[test]
    fn answers_state_their_length() {
        let mut out = Vec::new();
        respond(&mut out, Status::Ok, "<p>", false, true);
        let text = core::str::from_utf8(&out).expect("ASCII");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n<p>"), "{text}");
        assert!(text.contains("Content-Length: 3\r\n") && text.contains("text/html"), "{text}");
        assert!(text.contains("Connection: keep-alive\r\n"), "{text}");
    }

    #[test]
    fn answers_to_head_have_the_length_but_no_body() {
        let mut out = Vec::new();
        respond(&mut out, Status::NotFound, "no\n", true, false);
        let text = core::str::from_utf8(&out).expect("ASCII");
        assert!(text.contains("Content-Length: 3\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(text.contains("Connection: close\r\n"), "{text}");
    }
}
