//! The task that owns a monitor's socket, and what it shares with the handles.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot, watch};

use crate::error::Error;
use crate::event::{BACKLOG_LIMIT, Events, Subscribers};
use crate::router::{CallId, Dropped, Routed, Router};
use crate::wire::{self, Frame, Framer, Greeting, Mode, Refusal};

/// How much is read at once, in bytes.
const CHUNK: usize = 32 << 10;

/// What a caller gets: the answer, or why the connection ended before it.
pub(crate) type Answer = Result<Result<Value, Refusal>, Error>;

/// A line to send, and the descriptor that travels with its first byte.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) line: Vec<u8>,
    pub(crate) fd: Option<OwnedFd>,
}

/// What handles and task share. No lock is held across an await.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// There is something to send, or nobody is left.
    wake: Notify,
    /// Why the connection ended, once it has.
    closed: watch::Sender<Option<Error>>,
}

#[derive(Debug)]
struct State {
    router: Router<oneshot::Sender<Answer>, Outgoing>,
    subscribers: Subscribers,
    greeting: Option<oneshot::Sender<Result<Greeting, Error>>>,
    released: bool,
}

impl Shared {
    pub(crate) fn new(session: String) -> (Self, oneshot::Receiver<Result<Greeting, Error>>) {
        let (sender, receiver) = oneshot::channel();
        let state = State {
            router: Router::new(session),
            subscribers: Subscribers::default(),
            greeting: Some(sender),
            released: false,
        };
        (Self { state: Mutex::new(state), wake: Notify::new(), closed: watch::Sender::new(None) }, receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock; a poisoned state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id for a call, with its text.
    pub(crate) fn allot(&self) -> (CallId, String) {
        let mut state = self.state();
        let id = state.router.allot();
        (id, state.router.wire_id(id))
    }

    /// Queues a call and wakes the task.
    pub(crate) fn queue(
        &self,
        id: CallId,
        mode: Mode,
        outgoing: Outgoing,
    ) -> Result<oneshot::Receiver<Answer>, Error> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        // Under the lock, because closing empties the router under it.
        if let Some(reason) = self.closed.borrow().clone() {
            return Err(reason);
        }
        state.router.queue(id, mode, sender, outgoing);
        drop(state);
        self.wake.notify_one();
        Ok(receiver)
    }

    pub(crate) fn cancel(&self, id: CallId) {
        self.state().router.cancel(id);
    }

    pub(crate) fn subscribe(&self) -> Events {
        let mut state = self.state();
        let events = state.subscribers.add();
        if self.closed.borrow().is_some() {
            state.subscribers.clear();
        }
        events
    }

    pub(crate) fn dropped(&self) -> Dropped {
        self.state().router.dropped()
    }

    /// Resolves with the reason once the connection has ended.
    pub(crate) async fn closed(&self) -> Error {
        let mut receiver = self.closed.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(Error::Closed),
            Err(_) => Error::Closed,
        }
    }

    pub(crate) fn closed_now(&self) -> Option<Error> {
        self.closed.borrow().clone()
    }

    /// The last handle is gone.
    pub(crate) fn release(&self) {
        self.state().released = true;
        self.wake.notify_one();
    }

    fn close(&self, reason: &Error) {
        let mut state = self.state();
        self.closed.send_replace(Some(reason.clone()));
        for waiter in state.router.close() {
            // A caller that has just given up needs no answer.
            let _ = waiter.send(Err(reason.clone()));
        }
        if let Some(greeting) = state.greeting.take() {
            let _ = greeting.send(Err(reason.clone()));
        }
        state.subscribers.clear();
    }

    /// Handles one line.
    fn take(&self, line: &[u8]) -> Result<(), Error> {
        let message = wire::parse(line)?;
        let mut state = self.state();
        match state.router.route(message)? {
            Routed::Answer(waiter, result) => {
                let _ = waiter.send(Ok(result));
            }
            Routed::Greeting(greeting) => {
                if let Some(waiter) = state.greeting.take() {
                    let _ = waiter.send(Ok(greeting));
                }
            }
            Routed::Event(event) => {
                if !state.subscribers.publish(&event) {
                    return Err(Error::EventBacklog { limit: BACKLOG_LIMIT });
                }
            }
            Routed::Nothing => {}
        }
        Ok(())
    }
}

/// Serves the connection until it ends and leaves the reason in `shared`.
pub(crate) async fn serve(stream: UnixStream, shared: std::sync::Arc<Shared>, limit: usize) {
    let mut connection = Connection {
        stream,
        framer: Framer::monitor(limit),
        chunk: vec![0; CHUNK].into_boxed_slice(),
        out: None,
        deaf: false,
    };
    let reason = loop {
        if let Err(reason) = connection.step(&shared).await {
            break reason;
        }
    };
    // Closed before anybody is told, so that whoever hears of it can connect anew at once.
    drop(connection);
    shared.close(&reason);
}

struct Connection {
    stream: UnixStream,
    framer: Framer,
    chunk: Box<[u8]>,
    out: Option<Partial>,
    /// The peer takes nothing any more; what it said before is still read to the end.
    deaf: bool,
}

/// A line that is being sent.
struct Partial {
    line: Vec<u8>,
    sent: usize,
    fd: Option<OwnedFd>,
}

impl Connection {
    async fn step(&mut self, shared: &Shared) -> Result<(), Error> {
        if self.out.is_none() && !self.deaf {
            let next = shared.state().router.next_to_send();
            self.out = next.map(|Outgoing { line, fd }| Partial { line, sent: 0, fd });
        }
        let mut interest = Interest::READABLE;
        if self.out.is_some() {
            interest = interest.add(Interest::WRITABLE);
        }
        tokio::select! {
            () = shared.wake.notified() => {
                if shared.state().released {
                    return Err(Error::Closed);
                }
            }
            ready = self.stream.ready(interest) => {
                let ready = ready?;
                if ready.is_writable() {
                    self.write();
                }
                if ready.is_readable() || ready.is_read_closed() {
                    self.read(shared)?;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self) {
        let Some(out) = &mut self.out else { return };
        let result = self.stream.try_io(Interest::WRITABLE, || {
            let bytes = [IoSlice::new(&out.line[out.sent..])];
            let fds = out.fd.as_ref().map(|fd| [fd.as_raw_fd()]);
            let control = fds.as_ref().map(|fds| [ControlMessage::ScmRights(fds)]);
            let control = control.as_ref().map_or(&[][..], |control| &control[..]);
            let fd = self.stream.as_raw_fd();
            Ok(sendmsg::<()>(fd, &bytes, control, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT, None)?)
        });
        match result {
            Ok(count) => {
                out.sent += count;
                // The kernel has its own reference to the descriptor now.
                out.fd = None;
                if out.sent == out.line.len() {
                    self.out = None;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => {
                // The reason shows when reading; before it may come a last event such as SHUTDOWN.
                self.deaf = true;
                self.out = None;
            }
        }
    }

    fn read(&mut self, shared: &Shared) -> Result<(), Error> {
        // Bounded, so that a peer which never pauses cannot keep the task from writing or ending.
        for _ in 0..16 {
            match self.stream.try_read(&mut self.chunk) {
                Ok(0) => return Err(Error::Closed),
                Ok(count) => {
                    self.framer.push(&self.chunk[..count]);
                    while let Some(frame) =
                        self.framer.next_frame().map_err(|long| Error::TooLong { limit: long.limit })?
                    {
                        if let Frame::Line(line) = frame {
                            shared.take(&line)?;
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
