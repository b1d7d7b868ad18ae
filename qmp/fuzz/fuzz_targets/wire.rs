//! The framer and the parser on arbitrary bytes, whole and in pieces.
//!
//! Input: one byte of options, one for the size of the pieces, the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qmp::wire::{Frame, Framer, Message, parse};

fn frames(mut framer: Framer, bytes: &[u8], piece: usize) -> Vec<Option<Frame>> {
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        framer.push(piece);
        while let Some(frame) = framer.next_frame().transpose() {
            found.push(frame.ok());
        }
    }
    found
}

fuzz_target!(|data: &[u8]| {
    let [options, piece, stream @ ..] = data else { return };
    let limit = if options & 1 == 0 { 16 } else { 1 << 20 };
    let framer = || {
        let mut framer = if options & 2 == 0 { Framer::monitor(limit) } else { Framer::agent(limit) };
        if options & 6 == 6 {
            framer.skip_to_sentinel();
        }
        framer
    };
    let whole = frames(framer(), stream, stream.len().max(1));
    assert_eq!(frames(framer(), stream, usize::from(*piece) + 1), whole);
    for frame in whole {
        let Some(Frame::Line(line)) = frame else { continue };
        assert!(!line.is_empty() && line.len() <= limit);
        if let Ok(Message::Event(event)) = parse(&line) {
            let _ = event.typed();
        }
    }
});
