//! Reading logs: their last lines, and what is added to them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// How much of the end of a log is looked at for its last lines.
const TAIL: u64 = 256 << 10;

/// The last lines of a file, as text without control characters.
pub(super) fn last_lines(file: &mut File, count: usize) -> io::Result<Vec<String>> {
    let bytes = last_bytes(file, TAIL)?;
    let lines: Vec<String> =
        bytes.split(|b| *b == b'\n').map(clean).filter(|line| !line.trim().is_empty()).collect();
    Ok(lines[lines.len().saturating_sub(count)..].to_vec())
}

fn last_bytes(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where the last `count` lines of a file begin. The last line counts also when it has no end yet.
pub(super) fn start_of_last(file: &mut File, count: usize) -> io::Result<u64> {
    const STEP: usize = 64 << 10;
    let mut end = file.metadata()?.len();
    if count == 0 {
        return Ok(end);
    }
    let mut left = count;
    let mut buffer = vec![0; STEP];
    let mut last = true;
    while end > 0 {
        let step = end.min(STEP as u64);
        file.seek(SeekFrom::Start(end - step))?;
        #[allow(clippy::cast_possible_truncation, reason = "at most STEP")]
        let piece = &mut buffer[..step as usize];
        file.read_exact(piece)?;
        for (index, byte) in piece.iter().enumerate().rev() {
            // The end of the very last line separates nothing.
            if *byte == b'\n' && !(last && index + 1 == piece.len()) {
                left -= 1;
                if left == 0 {
                    return Ok(end - step + index as u64 + 1);
                }
            }
        }
        last = false;
        end -= step;
    }
    Ok(0)
}

/// A line as it can be shown anywhere: no escape sequences (ECMA-48), no control characters.
pub(super) fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                // A control sequence ends with a byte from 0x40 to 0x7e.
                Some('[') => while chars.next().is_some_and(|c| !('\x40'..='\x7e').contains(&c)) {},
                // A command string ends with BEL or ESC \.
                Some(']' | 'P' | '_' | '^') => {
                    while let Some(c) = chars.next() {
                        if c == '\x07' {
                            break;
                        }
                        if c == '\x1b' {
                            chars.next();
                            break;
                        }
                    }
                }
                // A character set takes one more character.
                Some('(' | ')') => drop(chars.next()),
                _ => {}
            },
            '\t' => clean.push(' '),
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    clean
}

/// A file that others write to, read as it grows. It may be missing yet, be replaced by a new one, or be cut off.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    watch: Inotify,
    open: Option<(File, u64)>,
    offset: u64,
}

impl Follower {
    /// Follows the file from this place on.
    ///
    /// The folder is watched rather than the file, since the file may come and go.
    pub(super) fn new(path: &Path, offset: u64) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let wanted = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF;
        watch.add_watch(folder, wanted)?;
        let mut follower = Self { path: path.to_owned(), watch, open: None, offset };
        follower.open = follower.look()?;
        Ok(follower)
    }

    fn look(&self) -> io::Result<Option<(File, u64)>> {
        match File::open(&self.path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                Ok(Some((file, inode)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Hands what is new to `sink`.
    pub(super) fn read<E: From<io::Error>>(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_open(&mut sink)?;
        // A new file under the old name: the old one has been read to its end.
        let now = self.look()?;
        if now.is_none() {
            // A removed file that is kept open keeps its folder in being, too, whose end is waited for.
            self.open = None;
            self.offset = 0;
        }
        if let Some((file, inode)) = now
            && self.open.as_ref().is_none_or(|(_, before)| *before != inode)
        {
            if self.open.is_some() {
                self.offset = 0;
            }
            self.open = Some((file, inode));
            self.read_open(&mut sink)?;
        }
        Ok(())
    }

    fn read_open<E: From<io::Error>>(
        &mut self,
        sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some((file, _)) = &mut self.open else { return Ok(()) };
        if file.metadata()?.len() < self.offset {
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut buffer = [0; 16 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                n => {
                    self.offset += n as u64;
                    sink(&buffer[..n])?;
                }
            }
        }
    }

    /// The descriptor that becomes readable when there may be more.
    pub(super) fn changes(&self) -> &Inotify {
        &self.watch
    }

    /// Takes note of what changed. Answers `false` when the folder is gone: there will be no more.
    pub(super) fn changed(&self) -> io::Result<bool> {
        let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_IGNORED;
        loop {
            match self.watch.read_events() {
                Ok(events) if events.iter().any(|event| event.mask.intersects(gone)) => return Ok(false),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(true),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits until there may be more; answers as [`Follower::changed`].
    pub(super) fn wait(&self) -> io::Result<bool> {
        use std::os::fd::AsFd;
        let mut fds = [nix::poll::PollFd::new(self.watch.as_fd(), nix::poll::PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => self.changed(),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn file_with(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn the_last_lines_are_clean() {
        let mut file = file_with("one\r\n\x1b[0;32mtwo\x1b[0m\r\n\n\x1b]0;title\x07three\x1b(B\r\n");
        assert_eq!(last_lines(&mut file, 2).unwrap(), ["two", "three"]);
        assert_eq!(last_lines(&mut file, 9).unwrap(), ["one", "two", "three"]);
    }

    #[test]
    fn the_start_of_the_last_lines_is_found() {
        for (text, count, rest) in [
            ("a\nb\nc\n", 1, "c\n"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 1, "c"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\nb\n", 0, ""),
            ("\n\n", 1, "\n"),
            ("", 3, ""),
        ] {
            let start = start_of_last(&mut file_with(text), count).unwrap();
            assert_eq!(&text[usize::try_from(start).unwrap()..], rest, "{count} of {text:?}");
        }
        let long = "x".repeat(100_000) + "\n" + &"y".repeat(70_000) + "\n";
        assert_eq!(start_of_last(&mut file_with(&long), 1).unwrap(), 100_001);
    }

    #[test]
    fn a_log_is_followed_when_it_appears_grows_is_cut_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut follower = Follower::new(&path, 0).unwrap();
        let mut seen = String::new();
        let mut read = |follower: &mut Follower| {
            assert!(follower.wait().unwrap());
            follower
                .read(|bytes| {
                    seen.push_str(std::str::from_utf8(bytes).unwrap());
                    Ok::<_, io::Error>(())
                })
                .unwrap();
            std::mem::take(&mut seen)
        };
        fs::write(&path, "one ").unwrap();
        assert_eq!(read(&mut follower), "one ");
        File::options().append(true).open(&path).unwrap().write_all(b"two ").unwrap();
        assert_eq!(read(&mut follower), "two ");
        fs::write(&path, "3").unwrap();
        assert_eq!(read(&mut follower), "3");
        fs::rename(&path, folder.path().join("old")).unwrap();
        fs::write(&path, "four").unwrap();
        assert_eq!(read(&mut follower), "four");
        folder.close().unwrap();
        while follower.wait().unwrap() {
            follower.read(|_| Ok::<_, io::Error>(())).unwrap();
        }
    }
}
