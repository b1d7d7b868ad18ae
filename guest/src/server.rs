//! The web server: a changing number of TCP sockets, each with the HTTP connection on it.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use hello::command::Command;
use hello::http::{self, Status, Target};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};

const PORT: u16 = 80;
/// Sockets that wait for a connection; one arriving when none is left is refused. They are topped up after each frame, so a
/// few are enough for any burst.
const LISTENERS: usize = 4;
/// Most sockets; each takes about 7 KiB.
const MAX_SOCKETS: usize = 256;
/// Time that a client may take for a request, and that a connection may stay idle.
const IDLE: Duration = Duration::from_secs(30);
/// Time that the answer to a command may take to leave before the command is carried out.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// One connection.
struct Connection {
    socket: SocketHandle,
    /// Bytes that have come in and are not answered yet.
    input: Vec<u8>,
    /// Answers, and how much of them the socket has taken.
    output: Vec<u8>,
    sent: usize,
    /// Nothing more is answered: close once all is sent.
    closing: bool,
    /// When something last happened.
    active: Instant,
}

/// The server.
pub struct Server {
    listeners: Vec<SocketHandle>,
    connections: Vec<Connection>,
    /// Sockets for the next connections.
    spare: Vec<Socket<'static>>,
    /// A command that was asked for, and until when its answer may take.
    command: Option<(Command, Instant)>,
    requests: u64,
}

impl Server {
    /// A server that listens once it is [`Server::top_up`]ped.
    pub fn new() -> Self {
        Self { listeners: Vec::new(), connections: Vec::new(), spare: Vec::new(), command: None, requests: 0 }
    }

    /// Turns sockets that got a connection into connections and puts new listeners in their place.
    pub fn top_up(&mut self, sockets: &mut SocketSet<'static>, now: Instant) {
        let connections = &mut self.connections;
        self.listeners.retain(|&socket| {
            let listening = sockets.get::<Socket<'_>>(socket).state() == State::Listen;
            if !listening {
                connections.push(Connection {
                    socket,
                    input: Vec::new(),
                    output: Vec::new(),
                    sent: 0,
                    closing: false,
                    active: now,
                });
            }
            listening
        });
        while self.listeners.len() < LISTENERS && self.listeners.len() + self.connections.len() < MAX_SOCKETS
        {
            let mut socket = self.spare.pop().unwrap_or_else(new_socket);
            // Only fails for a socket that is open or a port of 0.
            if socket.listen(PORT).is_ok() {
                self.listeners.push(sockets.add(socket));
            }
        }
    }

    /// Reads, answers and closes. `page` makes the page, given the number of the request. Gives the command that a client
    /// asked for, once its answer has left.
    pub fn serve(
        &mut self,
        sockets: &mut SocketSet<'static>,
        now: Instant,
        page: impl Fn(u64) -> String,
    ) -> Option<Command> {
        self.top_up(sockets, now);
        for connection in &mut self.connections {
            let socket = sockets.get_mut::<Socket<'_>>(connection.socket);
            let command = connection.exchange(socket, now, &mut self.requests, &page);
            if let Some(command) = command {
                self.command.get_or_insert((command, now + LAST_WORDS));
            }
        }
        let (command, deadline) = self.command?;
        let left = self.connections.iter().all(|connection| {
            connection.sent == connection.output.len()
                && sockets.get::<Socket<'_>>(connection.socket).send_queue() == 0
        });
        (left || now >= deadline).then_some(command)
    }

    /// Takes finished sockets back. To be called after what they had to say was sent.
    pub fn sweep(&mut self, sockets: &mut SocketSet<'static>) {
        let spare = &mut self.spare;
        self.connections.retain(|connection| {
            // The client has our last acknowledgement by now or will ask again and get a reset, which hurts nobody: no
            // socket has to wait out TIME-WAIT, of which a busy server would run out.
            let state = sockets.get::<Socket<'_>>(connection.socket).state();
            let finished = matches!(state, State::Closed | State::TimeWait);
            if finished && let smoltcp::socket::Socket::Tcp(socket) = sockets.remove(connection.socket) {
                spare.push(socket);
            }
            !finished
        });
    }

    /// When the server wants to look again without anything coming in.
    pub fn poll_at(&self) -> Option<Instant> {
        let idle = self.connections.iter().map(|connection| connection.active + IDLE).min();
        match (idle, self.command) {
            (Some(idle), Some((_, deadline))) => Some(idle.min(deadline)),
            (idle, command) => idle.or(command.map(|(_, deadline)| deadline)),
        }
    }
}

fn new_socket() -> Socket<'static> {
    let receive = SocketBuffer::new(vec![0; http::MAX_HEAD]);
    let send = SocketBuffer::new(vec![0; 4096]);
    let mut socket = Socket::new(receive, send);
    // Answers are whole when they are handed over: there is nothing to wait for.
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    // Peers that vanished without a word.
    socket.set_timeout(Some(IDLE));
    socket
}

impl Connection {
    fn exchange(
        &mut self,
        socket: &mut Socket<'_>,
        now: Instant,
        requests: &mut u64,
        page: &impl Fn(u64) -> String,
    ) -> Option<Command> {
        let mut command = None;
        // One answer at a time: a client that sends requests but takes no answers fills its own window, not our memory.
        if !self.closing && self.sent == self.output.len() {
            while self.input.len() < http::MAX_HEAD && socket.can_recv() {
                let room = http::MAX_HEAD - self.input.len();
                let input = &mut self.input;
                let received = socket.recv(|bytes| {
                    let taken = bytes.len().min(room);
                    input.extend_from_slice(&bytes[..taken]);
                    (taken, taken)
                });
                match received {
                    Ok(taken) if taken > 0 => self.active = now,
                    _ => break,
                }
            }
            if !self.input.is_empty() {
                command = self.answer(requests, page);
            }
        }
        if self.sent < self.output.len() && socket.can_send() {
            // An error means that the connection is gone, which the next lines see.
            self.sent += socket.send_slice(&self.output[self.sent..]).unwrap_or(0);
            self.active = now;
        }
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
            if self.closing || !socket.may_recv() && socket.state() == State::CloseWait {
                socket.close();
            }
        }
        if now >= self.active + IDLE {
            socket.abort();
        }
        command
    }

    fn answer(&mut self, requests: &mut u64, page: &impl Fn(u64) -> String) -> Option<Command> {
        let out = &mut self.output;
        let request = match http::parse(&self.input) {
            Ok(None) => return None,
            Ok(Some(request)) => request,
            Err(status) => {
                http::respond(out, status, status.text(), false, false);
                self.closing = true;
                return None;
            }
        };
        *requests += 1;
        self.input.drain(..request.length);
        self.closing = !request.keep_alive;
        let head = request.head_only;
        match request.target {
            Target::Page => http::respond(out, Status::Ok, &page(*requests), head, request.keep_alive),
            Target::Unknown => http::respond(out, Status::NotFound, "Not Found\n", head, request.keep_alive),
            // Browsers and crawlers may send HEAD for what they do not mean.
            Target::Command(_) if head => http::respond(out, Status::Ok, "", head, request.keep_alive),
            Target::Command(command) => {
                http::respond(out, Status::Ok, "as you say\n", head, false);
                self.closing = true;
                return Some(command);
            }
        }
        None
    }
}
