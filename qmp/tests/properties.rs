//! Properties of the pure parts: the wire, the router, the agent's synchronisation.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;
use qmp::ProtocolError;
use qmp::agent::replies::{Incoming, Replies};
use qmp::router::{CallId, IN_FLIGHT, Routed, Router};
use qmp::wire::{Frame, Framer, Message, Mode, Reply, TooLong, encode, parse};
use serde_json::{Value, json};

/// Bytes as they may come in, rich in what the framer acts on.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte =
        prop_oneof![3 => any::<u8>(), 2 => Just(b'\n'), 1 => Just(b'\r'), 1 => Just(0xff), 4 => b'a'..b'e'];
    vec(byte, 0..200)
}

/// All frames of `bytes` cut at `cuts`.
fn frames(mut framer: Framer, bytes: &[u8], cuts: &[usize]) -> Vec<Result<Frame, TooLong>> {
    let mut found = Vec::new();
    let mut drain = |framer: &mut Framer| {
        while let Some(frame) = framer.next_frame().transpose() {
            found.push(frame);
        }
    };
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut start = 0;
    for cut in cuts.into_iter().chain([bytes.len()]) {
        framer.push(&bytes[start..cut]);
        drain(&mut framer);
        start = cut;
    }
    found
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let key = prop_oneof![
            "event",
            "data",
            "timestamp",
            "return",
            "error",
            "id",
            "QMP",
            "class",
            "desc",
            "[a-z]{1,4}"
        ];
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((key, inner), 0..5).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// What can happen to a router.
#[derive(Debug, Clone)]
enum Step {
    Queue(u8),
    Send,
    /// Answer one of those under way, or (late) again one answered before.
    Answer(prop::sample::Index),
    Again(prop::sample::Index),
    Cancel(prop::sample::Index),
    Stray,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (0_u8..3).prop_map(Step::Queue),
        4 => Just(Step::Send),
        3 => index().prop_map(Step::Answer),
        1 => index().prop_map(Step::Again),
        2 => index().prop_map(Step::Cancel),
        1 => Just(Step::Stray),
    ]
}

fn reply(id: &str, value: u64) -> Message {
    Message::Reply(Reply { id: Some(json!(id)), result: Ok(json!(value)) })
}

/// What the router should do, written down naively.
#[derive(Default)]
struct Model {
    ids: BTreeMap<u64, (CallId, String, Mode)>,
    in_band: VecDeque<u64>,
    out_of_band: VecDeque<u64>,
    under_way: BTreeSet<u64>,
    cancelled: BTreeSet<u64>,
    answered: Vec<u64>,
    late: u64,
    stray: u64,
}

impl Model {
    fn count(&self, modes: &[Mode]) -> usize {
        self.under_way.iter().filter(|call| modes.contains(&self.ids[call].2)).count()
    }

    fn expect_next(&self) -> Option<u64> {
        if let Some(&next) = self.out_of_band.front()
            && self.count(&[Mode::OutOfBand]) < IN_FLIGHT
        {
            return Some(next);
        }
        let &next = self.in_band.front()?;
        let full = self.count(&[Mode::InBand, Mode::Descriptor]) >= IN_FLIGHT;
        let descriptor = self.ids[&next].2 == Mode::Descriptor && self.count(&[Mode::Descriptor]) > 0;
        (!full && !descriptor).then_some(next)
    }
}

proptest! {
    #[test]
    fn frames_do_not_depend_on_how_the_bytes_arrive(
        bytes in bytes(), cuts in vec(any::<usize>(), 0..20), limit in 1_usize..30, agent: bool, skip: bool,
    ) {
        let framer = || {
            let mut framer = if agent { Framer::agent(limit) } else { Framer::monitor(limit) };
            if agent && skip {
                framer.skip_to_sentinel();
            }
            framer
        };
        let whole = frames(framer(), &bytes, &[]);
        prop_assert_eq!(&frames(framer(), &bytes, &cuts), &whole);
        let singly: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(&frames(framer(), &bytes, &singly), &whole);
        for frame in whole {
            if let Ok(Frame::Line(line)) = frame {
                prop_assert!(!line.is_empty() && line.len() <= limit && !line.contains(&b'\n'));
                prop_assert!(!agent || !line.contains(&0xff));
            }
        }
    }

    #[test]
    fn any_line_is_a_message_or_a_typed_error(line in vec(any::<u8>(), 0..80), value in json_value()) {
        let _ = parse(&line);
        let text = value.to_string();
        match parse(text.as_bytes()) {
            Ok(Message::Event(event)) => prop_assert_eq!(event.name.as_str(), value["event"].as_str().unwrap()),
            Ok(Message::Reply(Reply { result: Ok(result), id })) => {
                prop_assert_eq!(&result, &value["return"]);
                prop_assert_eq!(id.as_ref(), value.get("id"));
            }
            Ok(_) => {}
            Err(error) => prop_assert!(matches!(error, ProtocolError::NotAMessage { .. }), "{error}"),
        }
    }

    #[test]
    fn a_command_is_one_line_that_says_what_was_meant(name in ".{0,12}", arguments in json_value(), oob: bool) {
        let mode = if oob { Mode::OutOfBand } else { Mode::InBand };
        let line = encode(&name, &arguments, mode, Some("a:1"));
        if arguments.is_object() || arguments.is_null() {
            let line = line.unwrap();
            prop_assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
            prop_assert!(!line.contains(&0xff));
            let arguments = if arguments.is_null() { json!({}) } else { arguments };
            let key = if oob { "exec-oob" } else { "execute" };
            let meant = json!({key: name, "arguments": arguments, "id": "a:1"});
            prop_assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), meant);
        } else {
            prop_assert!(line.is_err());
        }
    }

    #[test]
    fn every_answer_finds_its_own_call(steps in vec(step(), 0..200)) {
        let mut router = Router::new("own");
        let mut model = Model::default();
        for (number, step) in (0_u64..).zip(steps) {
            match step {
                Step::Queue(mode) => {
                    let mode = [Mode::InBand, Mode::OutOfBand, Mode::Descriptor][usize::from(mode)];
                    let id = router.allot();
                    model.ids.insert(number, (id, router.wire_id(id), mode));
                    router.queue(id, mode, number, number);
                    if mode == Mode::OutOfBand { &mut model.out_of_band } else { &mut model.in_band }.push_back(number);
                }
                Step::Send => {
                    let expected = model.expect_next();
                    prop_assert_eq!(router.next_to_send(), expected);
                    if let Some(call) = expected {
                        model.in_band.retain(|&other| other != call);
                        model.out_of_band.retain(|&other| other != call);
                        model.under_way.insert(call);
                    }
                }
                Step::Answer(index) if !model.under_way.is_empty() => {
                    let &call = index.get(&model.under_way.iter().collect::<Vec<_>>());
                    let call = *call;
                    let routed = router.route(reply(&model.ids[&call].1, call)).unwrap();
                    if model.cancelled.contains(&call) {
                        prop_assert_eq!(routed, Routed::Nothing);
                        model.late += 1;
                    } else {
                        prop_assert_eq!(routed, Routed::Answer(call, Ok(json!(call))));
                    }
                    model.under_way.remove(&call);
                    model.answered.push(call);
                }
                Step::Again(index) if !model.answered.is_empty() => {
                    let call = index.get(&model.answered);
                    let error = router.route(reply(&model.ids[call].1, 0)).unwrap_err();
                    prop_assert!(matches!(error, ProtocolError::UnknownId { .. }), "{error}");
                }
                Step::Cancel(index) if !model.ids.is_empty() => {
                    let &call = *index.get(&model.ids.keys().collect::<Vec<_>>());
                    router.cancel(model.ids[&call].0);
                    model.in_band.retain(|&other| other != call);
                    model.out_of_band.retain(|&other| other != call);
                    model.cancelled.insert(call);
                }
                Step::Stray => {
                    prop_assert_eq!(router.route(reply("other:1", 0)).unwrap(), Routed::Nothing);
                    model.stray += 1;
                }
                _ => {}
            }
            prop_assert_eq!(router.under_way(), model.under_way.len());
            prop_assert_eq!((router.dropped().late, router.dropped().stray), (model.late, model.stray));
        }
        let mut waiting: Vec<u64> = router.close();
        waiting.sort_unstable();
        let still = model.in_band.iter().chain(&model.out_of_band).chain(&model.under_way);
        let mut expected: Vec<u64> = still.filter(|call| !model.cancelled.contains(call)).copied().collect();
        expected.sort_unstable();
        prop_assert_eq!(waiting, expected);
        prop_assert_eq!(router.next_to_send(), None);
    }

    #[test]
    fn an_agent_gets_in_step_whatever_was_on_the_line(
        stale in vec(prop_oneof![
            bytes(),
            Just(b"{\"return\": {}}\n".to_vec()),
            Just(b"\xff{\"return\": 7}\n".to_vec()),
            Just(b"{\"return\": 42}\n".to_vec()),
            (60_usize..70).prop_map(|length| vec![b'x'; length]),
            (60_usize..70).prop_map(|length| [&[0xff][..], &vec![b'x'; length]].concat()),
            Just(b"\xff{\"return\": 4".to_vec()),
        ], 0..8),
        pieces in vec(1_usize..40, 1..30),
    ) {
        // A fresh number occurs nowhere in stale bytes; where it is forged, more may be heard in between.
        let stale = stale.concat();
        let mut all = stale.clone();
        all.extend_from_slice(b"\xff{\"return\": 42}\n{\"return\": \"next\"}\n");
        let mut replies = Replies::new(64);
        replies.begin_sync(42);
        let mut heard = Vec::new();
        let mut rest = &all[..];
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*piece));
            replies.push(now);
            rest = later;
            loop {
                match replies.next_incoming() {
                    Ok(Some(incoming)) => heard.push(incoming),
                    Ok(None) => break,
                    // Only what comes after a forged synchronisation can be wrong.
                    Err(_) => prop_assert_eq!(heard.first(), Some(&Incoming::InStep)),
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(heard.first(), Some(&Incoming::InStep));
        prop_assert_eq!(heard.last(), Some(&Incoming::Answer(Ok(json!("next")))));
        if !stale.windows(2).any(|window| window == b"42") {
            prop_assert_eq!(heard.len(), 2);
        }
    }
}
