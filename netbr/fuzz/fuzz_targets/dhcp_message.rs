//! The codec on arbitrary bytes: as a frame for either side, and as a message.
//!
//! Whatever is read must be written so that it is read as the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netbr::dhcp::message::{Datagram, Message, Side};
use netbr::dhcp::probe;

fuzz_target!(|data: &[u8]| {
    let room = 4 * data.len() + 1000;
    for side in [Side::Server, Side::Client] {
        let Ok(datagram) = Datagram::parse(data, side) else { continue };
        if room < 60_000 {
            let (frame, left_out) = datagram.encode(room);
            assert!(left_out.is_empty());
            assert_eq!(Datagram::parse(&frame, side), Ok(datagram.clone()));
        }
        // In less room, what is written is still a message, and says what it lacks.
        let (frame, left_out) = datagram.encode(0);
        let lacking = Datagram::parse(&frame, side).expect("a message");
        assert_eq!(
            lacking.message.options.iter().count() + left_out.len(),
            datagram.message.options.iter().count()
        );
    }
    if let Ok(message) = Message::parse(data) {
        let (bytes, left_out) = message.encode(room);
        assert!(left_out.is_empty());
        assert_eq!(Message::parse(&bytes), Ok(message));
    }
    if let Some(target) = data.last_chunk::<4>() {
        let _ = probe::claim(data, (*target).into());
    }
});
