//! What the unikernel can be told to do, by a line on the serial port, a web request or a word of the kernel command line.

/// One order. All but [`Command::Help`] end the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Leave by QEMU's `isa-debug-exit` device with this code, at most [`MAX_EXIT_CODE`]: QEMU's own exit status is then
    /// `(code << 1) | 1`.
    Exit(u8),
    /// Switch the machine off (ACPI S5).
    Poweroff,
    /// Reset the machine.
    Reset,
    /// Panic on purpose.
    Panic,
    /// Fault in a way that cannot be handled: see `power::crash`.
    Crash,
    /// Say what can be said.
    Help,
}

/// Largest code of [`Command::Exit`]: one bit of the eight of an exit status is taken by `isa-debug-exit`.
pub const MAX_EXIT_CODE: u8 = 127;

/// What [`Command::Help`] prints.
pub const HELP: &str = "commands: exit [CODE], poweroff, reset, panic, crash, help";

impl Command {
    /// Reads a line of the serial port, such as `exit 3`. `None` for what is no command; an empty line is none either.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        let argument = words.next();
        if words.next().is_some() {
            return None;
        }
        Self::from_parts(name, argument)
    }

    /// Reads a word of the kernel command line, such as `exit=3`.
    pub fn from_word(word: &str) -> Option<Self> {
        match word.split_once('=') {
            Some((name, argument)) => Self::from_parts(name, Some(argument)),
            None => Self::from_parts(word, None),
        }
    }

    /// Puts a name and what came with it together. `exit` without a code means code 0.
    pub fn from_parts(name: &str, argument: Option<&str>) -> Option<Self> {
        match (name, argument) {
            ("exit", None) => Some(Self::Exit(0)),
            ("exit", Some(code)) => code.parse().ok().filter(|&code| code <= MAX_EXIT_CODE).map(Self::Exit),
            ("poweroff", None) => Some(Self::Poweroff),
            ("reset", None) => Some(Self::Reset),
            ("panic", None) => Some(Self::Panic),
            ("crash", None) => Some(Self::Crash),
            ("help", None) => Some(Self::Help),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_any_white_space() {
        assert_eq!(Command::from_line("exit"), Some(Command::Exit(0)));
        assert_eq!(Command::from_line("  exit\t7\r"), Some(Command::Exit(7)));
        assert_eq!(Command::from_line("poweroff"), Some(Command::Poweroff));
        assert_eq!(Command::from_line("help"), Some(Command::Help));
    }

    #[test]
    fn exit_codes_beyond_seven_bits_are_refused() {
        assert_eq!(Command::from_line("exit 127"), Some(Command::Exit(127)));
        for line in ["exit 128", "exit 256", "exit -1", "exit x", "exit 1 2", "exit "] {
            let expected = if line == "exit " { Some(Command::Exit(0)) } else { None };
            assert_eq!(Command::from_line(line), expected, "{line:?}");
        }
    }

    #[test]
    fn junk_is_no_command() {
        for line in ["", "   ", "EXIT", "poweroff now", "rm -rf", "exit=3"] {
            assert_eq!(Command::from_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn words_take_their_argument_after_an_equals_sign() {
        assert_eq!(Command::from_word("exit=3"), Some(Command::Exit(3)));
        assert_eq!(Command::from_word("exit"), Some(Command::Exit(0)));
        assert_eq!(Command::from_word("panic"), Some(Command::Panic));
        assert_eq!(Command::from_word("panic=1"), None, "a Linux option, not ours");
        assert_eq!(Command::from_word("console=ttyS0"), None);
    }
}
