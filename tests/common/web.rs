//! A web server that a test commands: it answers as the test says, breaks off, stalls, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    /// The first byte of the range wanted.
    pub range: Option<usize>,
    pub if_range: Option<String>,
}

/// Where an answer is written to.
pub type Out<'a> = &'a mut dyn Write;

/// A server that runs until it is dropped.
pub struct Web {
    address: SocketAddr,
    tls: bool,
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Request>>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Web {
    /// One that speaks plain HTTP and lets `answer` write each answer. A failed write is the client's leaving.
    pub fn plain(answer: impl Fn(&Request, Out<'_>) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start(None, answer)
    }

    /// One that speaks HTTPS, by a certificate that is in the file that this answers too.
    pub fn encrypted(
        folder: &Path,
        answer: impl Fn(&Request, Out<'_>) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> (Self, PathBuf) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let pem = folder.join("certificate.pem");
        std::fs::write(&pem, made.cert.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key.into());
        (Self::start(Some(Arc::new(config.unwrap())), answer), pem)
    }

    fn start(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Request, Out<'_>) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let open = Arc::new(Mutex::new(Vec::new()));
        let encrypted = tls.is_some();
        let (ending, noted, streams) = (Arc::clone(&over), Arc::clone(&seen), Arc::clone(&open));
        let thread = std::thread::spawn(move || {
            let answer = Arc::new(answer);
            for stream in listener.incoming() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                streams.lock().unwrap().push(stream.try_clone().unwrap());
                let whole = stream.try_clone().unwrap();
                let (tls, answer, noted) = (tls.clone(), Arc::clone(&answer), Arc::clone(&noted));
                std::thread::spawn(move || {
                    let stream: Box<dyn Stream> = match tls {
                        None => Box::new(stream),
                        Some(config) => {
                            Box::new(StreamOwned::new(ServerConnection::new(config).unwrap(), stream))
                        }
                    };
                    let mut stream = BufReader::new(stream);
                    let Some(request) = read(&mut stream) else { return };
                    noted.lock().unwrap().push(request.clone());
                    let mut stream = stream.into_inner();
                    // One answer a connection.
                    let _ = answer(&request, &mut stream).and_then(|()| stream.flush());
                    let _ = whole.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { address, tls: encrypted, over, seen, open, thread: Some(thread) }
    }

    /// The address of something on it.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// What was asked for under a path, in order.
    pub fn asked(&self, path: &str) -> Vec<Request> {
        self.seen.lock().unwrap().iter().filter(|request| request.path == path).cloned().collect()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // The thread is waiting for a connection.
        let _ = TcpStream::connect(self.address);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, range: None, if_range: None };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Some(request) };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let first = value.trim().strip_prefix("bytes=")?.trim_end_matches('-');
                request.range = first.parse().ok();
            }
            "if-range" => request.if_range = Some(value.trim().to_owned()),
            _ => {}
        }
    }
}

/// An answer's first lines.
pub fn head(out: Out<'_>, status: &str, headers: &[(&str, String)]) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    out.write_all((text + "\r\n").as_bytes())
}

/// A whole short answer.
pub fn whole(out: Out<'_>, status: &str, body: &[u8]) -> std::io::Result<()> {
    head(out, status, &[("Content-Length", body.len().to_string())])?;
    out.write_all(body)
}

/// A file with a mark, or the range of it that was asked for, as a good server does it.
pub fn file(request: &Request, out: Out<'_>, body: &[u8], mark: &str) -> std::io::Result<()> {
    let mark_header = ("ETag", format!("\"{mark}\""));
    let same = request.if_range.as_ref().is_none_or(|wanted| *wanted == format!("\"{mark}\""));
    match request.range.filter(|_| same) {
        Some(start) if start >= body.len() => {
            head(out, "416 Range Not Satisfiable", &[("Content-Range", format!("bytes */{}", body.len()))])
        }
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
            let length = ("Content-Length", (body.len() - start).to_string());
            head(out, "206 Partial Content", &[length, ("Content-Range", range), mark_header])?;
            out.write_all(&body[start..])
        }
        None => {
            head(out, "200 OK", &[("Content-Length", body.len().to_string()), mark_header])?;
            out.write_all(body)
        }
    }
}

/// Something that a server waits for until the test opens it.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub fn pass(&self) {
        let open = self.open.lock().unwrap();
        // A test that fails before it opens the gate must still come to its end.
        let _ = self.changed.wait_timeout_while(open, super::PATIENCE, |open| !*open).unwrap();
    }

    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}
