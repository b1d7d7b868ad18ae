//! The router and the agent's synchronisation under arbitrary histories.
//!
//! Input: the first byte chooses the part. For the router each further byte is a step; a lying peer's lines come
//! from the input too. For the agent the rest is what was on the line before the synchronisation.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use qmp::agent::replies::{Incoming, Replies};
use qmp::router::{IN_FLIGHT, Routed, Router};
use qmp::wire::{Message, Mode, Reply, parse};
use serde_json::json;

fuzz_target!(|data: &[u8]| match data {
    [0, steps @ ..] => router(steps),
    [piece, stale @ ..] => agent(stale, usize::from(*piece)),
    [] => {}
});

fn router(mut steps: &[u8]) {
    let mut router: Router<usize, usize> = Router::new("s");
    let mut calls = Vec::new();
    let (mut sent, mut answered) = (BTreeSet::new(), BTreeSet::new());
    while let [step, rest @ ..] = steps {
        steps = rest;
        let pick = usize::from(*step >> 3);
        match step & 7 {
            kind @ 0..3 => {
                let mode = [Mode::InBand, Mode::OutOfBand, Mode::Descriptor][usize::from(kind)];
                let id = router.allot();
                router.queue(id, mode, calls.len(), calls.len());
                calls.push(id);
            }
            3 => {
                if let Some(call) = router.next_to_send() {
                    assert!(sent.insert(call), "sent twice");
                }
            }
            4 if !calls.is_empty() => router.cancel(calls[pick % calls.len()]),
            5 | 6 if !calls.is_empty() => {
                let call = pick % calls.len();
                let reply = Reply { id: Some(json!(router.wire_id(calls[call]))), result: Ok(json!(call)) };
                match router.route(Message::Reply(reply)) {
                    Ok(Routed::Answer(waiter, Ok(value))) => {
                        assert_eq!((waiter, value), (call, json!(call)));
                        assert!(sent.contains(&call) && answered.insert(call), "an answer nobody asked for");
                    }
                    Ok(Routed::Nothing) => assert!(sent.contains(&call)),
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => {}
                }
            }
            7 => {
                let (line, rest) = steps.split_at(pick.min(steps.len()));
                steps = rest;
                if let Ok(message) = parse(line) {
                    let _ = router.route(message);
                }
            }
            _ => {}
        }
        assert!(router.under_way() <= 2 * IN_FLIGHT);
    }
    for waiter in router.close() {
        assert!(!answered.contains(&waiter));
    }
}

fn agent(stale: &[u8], piece: usize) {
    const ID: i64 = 4_611_686_018_427_387_904;
    let mut line = stale.to_vec();
    line.extend_from_slice(format!("\n{{\"return\": {ID}}}\n{{\"return\": \"next\"}}\n").as_bytes());
    line[stale.len()] = 0xff;
    let mut replies = Replies::new(256);
    replies.begin_sync(ID);
    let mut heard = Vec::new();
    for piece in line.chunks(piece) {
        replies.push(piece);
        loop {
            match replies.next_incoming() {
                Ok(Some(incoming)) => heard.push(incoming),
                Ok(None) => break,
                Err(_) => assert!(!heard.is_empty(), "an error before the stream was in step"),
            }
        }
    }
    assert_eq!(heard.first(), Some(&Incoming::InStep));
    assert_eq!(heard.last(), Some(&Incoming::Answer(Ok(json!("next")))));
}
