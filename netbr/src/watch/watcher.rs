//! A table kept up to date from a port's packet socket.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::sleep_until;

use super::table::{
    Address, AskError, Clocks, Event, MOST_ASKED, NoAddress, Output, Port, Saved, Table, TableConfig, Want,
};
use crate::link::{LinkError, LinkEvents};
use crate::ns::Namespace;
use crate::packet::{Direction, FRAME_ROOM, PacketError, PacketSocket};

/// Events that a slow listener may lag behind; then it misses the oldest and is told so.
const BACKLOG: usize = 256;
/// Frames and questions that owners may have under way.
const WISHES: usize = 64;
/// Frames taken in before anything else gets its turn.
const BATCH: usize = 64;

/// What a watcher starts with.
#[derive(Debug, Clone)]
pub struct WatcherConfig {
    /// Whom it watches.
    pub table: TableConfig,
    /// Where the port is.
    pub namespace: Namespace,
    /// What an earlier watcher of the port knew.
    pub known: Vec<Saved>,
}

/// Sees every frame that the watcher sees, and may answer: for a DHCP server that shares the port's socket.
pub trait FrameHook {
    /// Takes a frame that went through the port, and gives the frames to send to the guest.
    ///
    /// It is called on the watcher's task, so it must be quick. An answer that takes time is sent by [`Watch::send`].
    fn frame(&mut self, direction: Direction, frame: &[u8]) -> Vec<Vec<u8>>;
}

impl<F: FnMut(Direction, &[u8]) -> Vec<Vec<u8>>> FrameHook for F {
    fn frame(&mut self, direction: Direction, frame: &[u8]) -> Vec<Vec<u8>> {
        self(direction, frame)
    }
}

/// Does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHook;

impl FrameHook for NoHook {
    fn frame(&mut self, _: Direction, _: &[u8]) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// Why a port is watched no longer.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The interface was deleted.
    #[error("the network interface {interface} is gone, so its guest's addresses are watched no longer")]
    Gone {
        /// The interface.
        interface: String,
    },
    /// The socket failed.
    #[error("cannot watch {interface} for addresses")]
    Packet {
        /// The interface.
        interface: String,
        /// The reason.
        #[source]
        source: PacketError,
    },
    /// The interface is down, and nobody tells when it comes up.
    #[error("cannot tell when {interface} is up again")]
    News {
        /// The interface.
        interface: String,
        /// The reason.
        #[source]
        source: LinkError,
    },
}

enum Wish {
    Ask(Vec<IpAddr>),
    Send(Vec<u8>),
}

struct Shared {
    socket: PacketSocket,
    table: Mutex<Table>,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is whole between its calls, and none of them panics half-way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The view of a watched port. Cheap to clone; the watcher ends with the last one.
pub struct Watch {
    shared: Arc<Shared>,
    wishes: mpsc::Sender<Wish>,
    addresses: watch::Receiver<Vec<Address>>,
    /// Never read: others are made from it.
    events: broadcast::Receiver<Event>,
}

impl Clone for Watch {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            wishes: self.wishes.clone(),
            addresses: self.addresses.clone(),
            events: self.events.resubscribe(),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("interface", &self.shared.socket.interface()).finish_non_exhaustive()
    }
}

/// The watcher has ended, so nothing can be asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// It has ended.
    #[error("the port is watched no longer")]
    Ended,
    /// See [`AskError`].
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl Watch {
    /// The guest's addresses now, the best one first, with the latest that is known of each: [`Watch::changes`] does not tell when one
    /// was heard of again or its lease was made longer.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.shared.table().addresses()
    }

    /// The guest's addresses, and whenever they change. It is closed when the watcher has ended.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Vec<Address>> {
        self.addresses.clone()
    }

    /// Everything that becomes known from now on. It is closed when the watcher has ended.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.resubscribe()
    }

    /// Why there is no confirmed address of a kind; nothing if there is one. Only the owner knows whether the guest runs.
    #[must_use]
    pub fn why(&self, running: bool, want: Want) -> Option<NoAddress> {
        // An interface that is gone has no link.
        let link_up = self.shared.socket.link_state().is_ok_and(|state| state.up && state.running);
        self.shared.table().why(Port { running, link_up }, want)
    }

    /// What is known, to be kept for a watcher to come.
    #[must_use]
    pub fn saved(&self) -> Vec<Saved> {
        let clocks = Clocks::read();
        self.addresses().iter().map(|address| Saved::new(address, clocks)).collect()
    }

    /// Asks the guest for addresses that it may have in silence; see [`Table::ask`].
    pub async fn ask(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), WishError> {
        let addresses: Vec<_> = addresses.into_iter().take(MOST_ASKED + 1).collect();
        if addresses.len() > MOST_ASKED {
            return Err(AskError::TooMany.into());
        }
        self.wish(Wish::Ask(addresses)).await
    }

    /// Asks the guest for every address of a network of at most a /24; see [`Table::sweep`].
    pub async fn sweep(&self, network: Ipv4Addr, prefix: u8) -> Result<(), WishError> {
        let hosts = Table::hosts(network, prefix)?;
        self.wish(Wish::Ask(hosts.collect())).await
    }

    /// Sends a frame to the guest, and takes note of what it tells: for an answer of a DHCP server that took its time.
    pub async fn send(&self, frame: Vec<u8>) -> Result<(), WishError> {
        self.wish(Wish::Send(frame)).await
    }

    async fn wish(&self, wish: Wish) -> Result<(), WishError> {
        self.wishes.send(wish).await.map_err(|_| WishError::Ended)
    }
}

/// Watches a port: run it as a task of its own, on any kind of tokio runtime with I/O and time enabled.
pub struct Watcher<H = NoHook> {
    shared: Arc<Shared>,
    wishes: mpsc::Receiver<Wish>,
    namespace: Namespace,
    known: Vec<Saved>,
    addresses: watch::Sender<Vec<Address>>,
    events: broadcast::Sender<Event>,
    hook: H,
}

impl<H> fmt::Debug for Watcher<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("interface", &self.shared.socket.interface()).finish_non_exhaustive()
    }
}

impl Watcher {
    /// A watcher of the socket's interface, to be run, and the view of it. The socket's filter should be
    /// [`Filter::addresses`](crate::packet::Filter::addresses).
    #[must_use]
    pub fn new(socket: PacketSocket, config: WatcherConfig) -> (Self, Watch) {
        let shared = Arc::new(Shared { socket, table: Mutex::new(Table::new(config.table)) });
        let (addresses, addresses_view) = watch::channel(Vec::new());
        let (events, events_view) = broadcast::channel(BACKLOG);
        let (wishes, wished) = mpsc::channel(WISHES);
        let view =
            Watch { shared: Arc::clone(&shared), wishes, addresses: addresses_view, events: events_view };
        let WatcherConfig { namespace, known, .. } = config;
        (Self { shared, wishes: wished, namespace, known, addresses, events, hook: NoHook }, view)
    }

    /// Shows every frame to `hook`, too.
    pub fn with_hook<H: FrameHook>(self, hook: H) -> Watcher<H> {
        let Self { shared, wishes, namespace, known, addresses, events, .. } = self;
        Watcher { shared, wishes, namespace, known, addresses, events, hook }
    }

    /// Starts [`Watcher::run`] as a task of the current runtime.
    pub fn spawn(
        socket: PacketSocket,
        config: WatcherConfig,
    ) -> (tokio::task::JoinHandle<Result<(), WatchError>>, Watch) {
        let (watcher, watch) = Self::new(socket, config);
        (tokio::spawn(watcher.run()), watch)
    }
}

impl<H: FrameHook> Watcher<H> {
    /// Watches until the last [`Watch`] is gone, which is no error, or the interface is.
    ///
    /// While the interface is down, it waits for it to come up, and then asks for every address anew.
    pub async fn run(mut self) -> Result<(), WatchError> {
        let mut buf = [0; FRAME_ROOM];
        let mut down = None;
        let restored = self.shared.table().restore(Clocks::read(), &self.known);
        let mut sent = self.deliver(restored);
        loop {
            match sent {
                Err(PacketError::Down { .. }) if down.is_none() => {
                    let news = LinkEvents::open(&self.namespace).map_err(|e| self.no_news(e))?;
                    // It may have come up, or gone, before there was anybody to listen.
                    if self.link_is_up()? {
                        sent = self.recheck();
                        continue;
                    }
                    down = Some(news);
                }
                Err(PacketError::Down { .. }) | Ok(()) => {}
                Err(other) => return Err(self.failed(other)),
            }
            let deadline = self.shared.table().next_deadline();
            sent = tokio::select! {
                received = self.shared.socket.recv(&mut buf) => match received {
                    Ok(frame) => self.batch(&mut buf, frame.len, frame.direction),
                    Err(failure) => Err(failure),
                },
                () = until(deadline) => {
                    let due = self.shared.table().tick(Instant::now());
                    self.deliver(due)
                }
                wish = self.wishes.recv() => match wish {
                    None => return Ok(()),
                    Some(wish) => self.fulfil(wish),
                },
                news = next(down.as_mut()) => {
                    news.map_err(|e| self.no_news(e))?;
                    if self.link_is_up()? {
                        down = None;
                        self.recheck()
                    } else {
                        Ok(())
                    }
                }
            };
        }
    }

    /// The interface is up again.
    fn recheck(&self) -> Result<(), PacketError> {
        let questions = self.shared.table().recheck(Instant::now());
        self.deliver(questions)
    }

    /// Takes in a frame and those that came with it.
    fn batch(&mut self, buf: &mut [u8], len: usize, direction: Direction) -> Result<(), PacketError> {
        let (mut len, mut direction) = (len, direction);
        for _ in 0..BATCH {
            self.take_in(direction, &buf[..len])?;
            match self.shared.socket.try_recv(buf)? {
                Some(next) => (len, direction) = (next.len, next.direction),
                None => return Ok(()),
            }
        }
        self.take_in(direction, &buf[..len])
    }

    fn take_in(&mut self, direction: Direction, frame: &[u8]) -> Result<(), PacketError> {
        let output = self.shared.table().frame(Instant::now(), direction, frame);
        self.deliver(output)?;
        self.hook.frame(direction, frame).iter().try_for_each(|answer| self.send(answer))
    }

    fn fulfil(&self, wish: Wish) -> Result<(), PacketError> {
        match wish {
            Wish::Send(frame) => self.send(&frame),
            Wish::Ask(addresses) => {
                let asked = self.shared.table().ask(Instant::now(), addresses);
                // What is too much was refused where it was wished for.
                asked.map_or(Ok(()), |questions| self.deliver(questions))
            }
        }
    }

    /// Sends a frame that is not the table's own, and tells it the table, as the socket does not show it.
    fn send(&self, frame: &[u8]) -> Result<(), PacketError> {
        self.transmit(frame)?;
        let output = self.shared.table().frame(Instant::now(), Direction::ToGuest, frame);
        self.deliver(output)
    }

    fn deliver(&self, output: Output) -> Result<(), PacketError> {
        if !output.events.is_empty() {
            self.addresses.send_replace(self.shared.table().addresses());
        }
        for event in output.events {
            // Nobody may be listening.
            let _ = self.events.send(event);
        }
        output.frames.iter().try_for_each(|frame| self.transmit(frame))
    }

    fn transmit(&self, frame: &[u8]) -> Result<(), PacketError> {
        match self.shared.socket.try_send(frame) {
            Ok(true) => Ok(()),
            // The guest takes nothing in; what is asked is asked again, and what answers is asked for again.
            Ok(false) => {
                tracing::debug!(interface = self.shared.socket.interface(), "no room to send a frame");
                Ok(())
            }
            Err(PacketError::Io { source, .. }) if lossy(&source) => {
                tracing::debug!(interface = self.shared.socket.interface(), %source, "a frame was not sent");
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    fn link_is_up(&self) -> Result<bool, WatchError> {
        self.shared.socket.link_state().map(|state| state.up).map_err(|e| self.failed(e))
    }

    fn failed(&self, failure: PacketError) -> WatchError {
        match failure {
            PacketError::Gone { interface } => WatchError::Gone { interface },
            source => WatchError::Packet { interface: self.shared.socket.interface().to_owned(), source },
        }
    }

    fn no_news(&self, source: LinkError) -> WatchError {
        WatchError::News { interface: self.shared.socket.interface().to_owned(), source }
    }
}

/// Whether a send failed as it may on any network: a full queue, or a frame that the interface finds too long.
fn lossy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ENOBUFS | nix::libc::EMSGSIZE | nix::libc::EINVAL))
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits for news of any link; what they are is for the listener to find out.
async fn next(news: Option<&mut LinkEvents>) -> Result<(), LinkError> {
    match news {
        Some(news) => news.next().await.map(drop),
        None => std::future::pending().await,
    }
}
