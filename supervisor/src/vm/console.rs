//! The serial console: read once by the supervisor, watched for signs, and shared by everyone attached.
//!
//! QEMU writes the log file by itself (`logfile=`), so that nothing is lost while no supervisor reads; here the bytes
//! are only looked at and passed on.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// How many pieces of output an attached command may lag behind before it loses its place.
const LAG: usize = 1024;
/// The log's size at which its older half is set aside. Two of them are kept: an SD card fills up otherwise.
const LOG_LIMIT: u64 = 8 << 20;

/// The console of one VM, over all its runs.
#[derive(Debug)]
pub(super) struct Console {
    attached: RefCell<Vec<mpsc::Sender<Vec<u8>>>>,
    /// To the guest's keyboard; nothing while no QEMU is there.
    keyboard: RefCell<Option<mpsc::Sender<Vec<u8>>>>,
    log: RefCell<PathBuf>,
    logged: Cell<u64>,
}

impl Console {
    /// A console whose log QEMU appends to `log`.
    pub(super) fn new(log: PathBuf) -> Rc<Self> {
        Rc::new(Self {
            attached: RefCell::default(),
            keyboard: RefCell::default(),
            log: RefCell::new(log),
            logged: Cell::new(0),
        })
    }

    /// The log is here from now on.
    pub(super) fn moved(&self, log: PathBuf) {
        *self.log.borrow_mut() = log;
    }

    /// Sets the log of earlier runs aside, so that the log tells of one run.
    pub(super) fn begin_log(&self) -> io::Result<()> {
        self.logged.set(0);
        match fs::rename(&*self.log.borrow(), self.old_log()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn old_log(&self) -> PathBuf {
        self.log.borrow().with_extension("log.old")
    }

    /// Reads the console of one QEMU to its end and hands every piece to `look`.
    pub(super) async fn run(self: Rc<Self>, stream: UnixStream, mut look: impl FnMut(&[u8])) {
        let (mut reader, writer) = stream.into_split();
        let (keyboard, keys) = mpsc::channel(64);
        let ours = keyboard.clone();
        *self.keyboard.borrow_mut() = Some(keyboard);
        let typing = tokio::task::spawn_local(type_keys(writer, keys));
        let mut buffer = vec![0; 16 << 10];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    let bytes = &buffer[..n];
                    self.share(bytes);
                    look(bytes);
                    self.bound_log(n as u64);
                }
            }
        }
        // That of another QEMU, which the guest has gone over to, is not ours to take away.
        let mut keyboard = self.keyboard.borrow_mut();
        if keyboard.as_ref().is_some_and(|in_use| in_use.same_channel(&ours)) {
            *keyboard = None;
        }
        typing.abort();
    }

    /// Passes output on. A command that does not read loses its place rather than holding the guest up.
    fn share(&self, bytes: &[u8]) {
        self.attached.borrow_mut().retain(|tx| tx.try_send(bytes.to_vec()).is_ok());
    }

    /// QEMU keeps the log open for appending, so what has been copied away can be cut off under it; the few bytes that it
    /// writes between the two steps are lost.
    fn bound_log(&self, written: u64) {
        self.logged.set(self.logged.get() + written);
        if self.logged.get() < LOG_LIMIT {
            return;
        }
        self.logged.set(0);
        let log = self.log.borrow().clone();
        let cut = || -> io::Result<()> {
            fs::copy(&log, self.old_log())?;
            fs::File::options().write(true).open(&log)?.set_len(0)
        };
        if let Err(e) = cut() {
            tracing::warn!("cannot bound the console log {}: {e}", log.display());
        }
    }

    /// The output from now on.
    pub(super) fn listen(&self) -> mpsc::Receiver<Vec<u8>> {
        let (tx, output) = mpsc::channel(LAG);
        self.attached.borrow_mut().push(tx);
        output
    }

    /// Joins an attached command to the console until either side ends.
    pub(super) async fn attach(
        &self,
        mut from: tokio::io::BufReader<OwnedReadHalf>,
        mut to: OwnedWriteHalf,
    ) -> io::Result<()> {
        let mut output = self.listen();
        let mut input = vec![0; 4096];
        loop {
            tokio::select! {
                bytes = output.recv() => match bytes {
                    Some(bytes) => to.write_all(&bytes).await?,
                    None => return Ok(()),
                },
                n = from.read(&mut input) => {
                    let n = n?;
                    if n == 0 {
                        return Ok(());
                    }
                    let keyboard = self.keyboard.borrow().clone();
                    if let Some(keyboard) = keyboard {
                        let _ = keyboard.send(input[..n].to_vec()).await;
                    }
                }
            }
        }
    }

    /// Lets everyone attached go: the VM has ended.
    pub(super) fn detach_all(&self) {
        self.attached.borrow_mut().clear();
    }
}

async fn type_keys(mut writer: OwnedWriteHalf, mut keys: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = keys.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
