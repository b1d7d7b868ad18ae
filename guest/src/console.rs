//! Lines out to and in from the serial port.

use core::fmt;

use hello::command::Command;

use crate::arch::serial;

/// The serial port as something to write to; a line ends with CR LF, as terminals want it.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                serial::put(b'\r');
            }
            serial::put(byte);
        }
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        // Writing to the console cannot fail.
        let _ = writeln!($crate::console::Console, $($argument)*);
    }};
}

/// Puts the bytes of the serial port together to command lines.
pub struct Input {
    line: [u8; 80],
    length: usize,
}

impl Input {
    /// Nothing read yet.
    pub const fn new() -> Self {
        Self { line: [0; 80], length: 0 }
    }

    /// Takes what has come in; a command once its line is complete. An unknown one is answered here.
    pub fn poll(&mut self) -> Option<Command> {
        while let Some(byte) = serial::get() {
            if byte != b'\r' && byte != b'\n' {
                // Of a line that is too long the rest is dropped; no command is that long.
                if let Some(place) = self.line.get_mut(self.length) {
                    *place = byte;
                    self.length += 1;
                }
                continue;
            }
            let line = core::str::from_utf8(&self.line[..self.length]).unwrap_or("?");
            self.length = 0;
            match Command::from_line(line) {
                None if line.trim().is_empty() => {}
                None => println!("hello: unknown command {line:?}, try help"),
                command => return command,
            }
        }
        None
    }
}
