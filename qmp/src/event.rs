//! Events as QEMU sends them, known to us or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

/// How many bytes of unread events one receiver may have waiting before the connection is given up.
pub const BACKLOG_LIMIT: usize = 64 << 20;

/// What an event takes in memory beyond its text, roughly.
const OVERHEAD: usize = 512;

/// Something that happened in QEMU, told without being asked.
///
/// The name and data are kept as they came, so that an event, an enum value or a field that is newer than this
/// crate is never lost. [`Event::typed`] and [`Event::read`] give `qapi`'s types where they fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The event's name, such as `STOP`.
    pub name: String,
    /// Its data; an empty object where it has none.
    pub data: Value,
    /// When it happened by QEMU's wall clock; the epoch where QEMU could not tell the time.
    pub timestamp: SystemTime,
    /// What it weighs while unread, in bytes: its line, and what the values around it take.
    size: usize,
}

impl Event {
    /// An event of that name and data, as a test of a consumer may need one.
    pub fn new(name: impl Into<String>, data: Value, timestamp: SystemTime) -> Self {
        Self { name: name.into(), data, timestamp, size: 0 }
    }

    pub(crate) fn from_wire(name: String, data: Value, timestamp: Option<&Value>, size: usize) -> Self {
        // QEMU writes -1 for both numbers when it could not get the time (qmp-spec, "Asynchronous events").
        let number = |key| timestamp.and_then(|value| value.get(key)).and_then(Value::as_u64);
        let since = number("seconds").zip(number("microseconds"));
        let timestamp = since
            .and_then(|(seconds, micros)| {
                Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))
            })
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since))
            .unwrap_or(SystemTime::UNIX_EPOCH);
        Self { name, data, timestamp, size: size + OVERHEAD }
    }

    /// The event as `qapi`'s enum, if it knows the event and every enum value in it.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// let stop = qmp::Event::new("STOP", serde_json::json!({}), SystemTime::UNIX_EPOCH);
    /// assert!(matches!(stop.typed(), Some(qapi::qmp::Event::STOP { .. })));
    /// let newer = qmp::Event::new("FROM_THE_FUTURE", serde_json::json!({}), SystemTime::UNIX_EPOCH);
    /// assert!(newer.typed().is_none());
    /// ```
    pub fn typed(&self) -> Option<qapi::qmp::Event> {
        let since = self.timestamp.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut object = Map::new();
        object.insert("event".to_owned(), Value::String(self.name.clone()));
        object.insert("data".to_owned(), self.data.clone());
        object.insert(
            "timestamp".to_owned(),
            json!({"seconds": since.as_secs(), "microseconds": since.subsec_micros()}),
        );
        serde_json::from_value(Value::Object(object)).ok()
    }

    /// The data as one of `qapi`'s event types; `None` if the name is another one or the data does not fit.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// let data = serde_json::json!({"guest": true, "reason": "guest-shutdown"});
    /// let event = qmp::Event::new("SHUTDOWN", data, SystemTime::UNIX_EPOCH);
    /// assert!(event.read::<qapi::qmp::SHUTDOWN>().is_some_and(|shutdown| shutdown.guest));
    /// ```
    pub fn read<E: qapi::Event>(&self) -> Option<E> {
        (self.name == E::NAME).then(|| E::deserialize(&self.data).ok()).flatten()
    }
}

/// One receiver of a monitor's events.
///
/// Each receiver gets every event from the moment it was made, in the order QEMU sent them, and after the
/// connection's end still those that came before. The queue is not bounded by count: a consumer that is slow for a
/// while loses nothing and holds up neither replies nor other receivers. So that memory stays bounded all the same,
/// a receiver with more than [`BACKLOG_LIMIT`] bytes unread ends the connection with
/// [`Error::EventBacklog`](crate::Error::EventBacklog): a loud end instead of a silent loss. Drop a receiver that is
/// no longer read.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::UnboundedReceiver<Event>,
    unread: Arc<AtomicUsize>,
}

impl Events {
    /// The next event; `None` once the connection has ended and all events are read. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event> {
        let event = self.receiver.recv().await?;
        self.unread.fetch_sub(event.size, Ordering::Relaxed);
        Some(event)
    }

    /// An event that is already here, without waiting.
    pub fn try_recv(&mut self) -> Option<Event> {
        let event = self.receiver.try_recv().ok()?;
        self.unread.fetch_sub(event.size, Ordering::Relaxed);
        Some(event)
    }
}

/// The sending side of every [`Events`] of a connection.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    list: Vec<(mpsc::UnboundedSender<Event>, Arc<AtomicUsize>)>,
}

impl Subscribers {
    pub(crate) fn add(&mut self) -> Events {
        let (sender, receiver) = mpsc::unbounded_channel();
        let unread = Arc::new(AtomicUsize::new(0));
        self.list.push((sender, Arc::clone(&unread)));
        Events { receiver, unread }
    }

    /// Hands the event to every receiver; false when one of them holds too much unread.
    pub(crate) fn publish(&mut self, event: &Event) -> bool {
        let mut within = true;
        self.list.retain(|(sender, unread)| {
            within &= unread.fetch_add(event.size, Ordering::Relaxed) + event.size <= BACKLOG_LIMIT;
            sender.send(event.clone()).is_ok()
        });
        within
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }
}
