//! Changes that take effect together or not at all, as messages.

use super::field::Field;
use super::model::{Chain, Family, Kind, Set, Table};
use super::rule::{Connection, Equality, Expression, Meta, Register, Rule, Verdict};
use super::wire::{APPEND, CREATE, EXCLUSIVE, Message};

/// `enum nf_tables_msg_types`.
const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;
const NEW_SET: u8 = 9;
const NEW_ELEMENTS: u8 = 12;

/// Changes that take effect together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) steps: Vec<Step>,
}

/// One message of a batch.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) message: Message,
    /// What it does, for people: "add the chain …".
    pub(super) does: String,
    /// The device that must be there for it.
    pub(super) device: Option<String>,
}

impl Batch {
    /// No changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn step(&mut self, message: Message, does: String) {
        self.steps.push(Step { message, does, device: None });
    }

    /// Deletes a table with all that is in it, if it is there.
    ///
    /// It is made first, which is nothing where it is there: only Linux 6.3 has a deletion that does not mind.
    pub fn delete(&mut self, family: Family, table: &str) {
        self.step(
            Message::new(NEW_TABLE, CREATE, family).text(1, table),
            format!("add the table {family} {table}"),
        );
        self.step(
            Message::new(DELETE_TABLE, 0, family).text(1, table),
            format!("delete the table {family} {table}"),
        );
    }

    /// Makes a table, in place of the one of that name if there is one. Between the two no packet passes by neither.
    ///
    /// Where there is none, [`Batch::create`] is quicker in the end: see [`Nft`](super::Nft). [`Nft::put`](super::Nft::put) chooses.
    pub fn replace(&mut self, table: &Table) {
        self.delete(table.family, &table.name);
        self.create(table);
    }

    /// Makes a table. It is an error when there is one of that name.
    pub fn create(&mut self, table: &Table) {
        self.step(
            Message::new(NEW_TABLE, CREATE | EXCLUSIVE, table.family).text(1, &table.name),
            format!("add the table {} {}", table.family, table.name),
        );
        for (set, id) in table.sets.iter().zip(1..) {
            self.set(table, set, id);
        }
        for chain in &table.chains {
            self.chain(table, chain);
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                self.rule(table, chain, rule);
            }
        }
    }

    fn set(&mut self, table: &Table, set: &Set, id: u32) {
        const CONSTANT: u32 = 0x2;
        const MAP: u32 = 0x8;
        let does = format!("add the set {} to the table {} {}", set.name, table.family, table.name);
        let flags = CONSTANT | if set.value.is_some() { MAP } else { 0 };
        let mut message = Message::new(NEW_SET, CREATE, table.family)
            .text(1, &table.name)
            .text(2, set.name)
            .number(3, flags)
            .number(4, set.key.number())
            .number(5, set.key.length());
        if let Some(value) = set.value {
            message = message.number(6, value.number()).number(7, value.length());
        }
        // The size lets the kernel choose the quickest kind of table.
        let size = u32::try_from(set.elements.len()).unwrap_or(u32::MAX);
        let message = message.nest(9, |m| m.number(1, size)).number(10, id).bytes(13, &set_user_data(set));
        self.step(message, does.clone());
        // An attribute's length is of 16 bits: some hundred elements at once are safe.
        for elements in set.elements.chunks(256) {
            let message = Message::new(NEW_ELEMENTS, CREATE, table.family)
                .text(1, &table.name)
                .text(2, set.name)
                .nest(3, |list| {
                    elements.iter().fold(list, |list, element| list.nest(1, |m| pair(m, element)))
                })
                .number(4, id);
            self.step(message, does.clone());
        }
    }

    fn chain(&mut self, table: &Table, chain: &Chain) {
        const ACCEPT: u32 = 1;
        let mut does = format!("add the chain {} to the table {} {}", chain.name, table.family, table.name);
        let mut message =
            Message::new(NEW_CHAIN, CREATE, table.family).text(1, &table.name).text(3, &chain.name);
        let mut device = None;
        if let Some(base) = &chain.base {
            device = base.hook.device().map(str::to_owned);
            message = message
                .nest(4, |m| {
                    let m = m.number(1, base.hook.number()).number(2, base.priority.cast_unsigned());
                    match &device {
                        Some(device) => m.text(3, device),
                        None => m,
                    }
                })
                .number(5, ACCEPT)
                .text(
                    7,
                    match base.kind {
                        Kind::Filter => "filter",
                        Kind::Nat => "nat",
                    },
                );
            if let Some(device) = &device {
                does.push_str(" on ");
                does.push_str(device);
            }
        }
        self.steps.push(Step { message, does, device });
    }

    fn rule(&mut self, table: &Table, chain: &Chain, rule: &Rule) {
        let mut message = Message::new(NEW_RULE, CREATE | APPEND, table.family)
            .text(1, &table.name)
            .text(2, &chain.name)
            .nest(4, |list| {
                rule.expressions.iter().fold(list, |list, expression| {
                    let name = name(expression);
                    list.nest(1, |m| m.text(1, name).nest(2, |m| data(m, expression)))
                })
            });
        if let Some(comment) = &rule.comment {
            message = message.bytes(7, &rule_comment(comment));
        }
        self.step(
            message,
            format!("add a rule to the chain {} of the table {} {}", chain.name, table.family, table.name),
        );
    }
}

/// What only nft(8) reads: that keys and values are in the network's byte order (libnftnl's `enum nftnl_udata_set_types`: 0 and 1, each a
/// number of the machine's order; 2 is `BYTEORDER_BIG_ENDIAN`).
fn set_user_data(set: &Set) -> Vec<u8> {
    let mut bytes = vec![0, 4];
    bytes.extend(2_u32.to_ne_bytes());
    if set.value.is_some() {
        bytes.extend([1, 4]);
        bytes.extend(2_u32.to_ne_bytes());
    }
    bytes
}

/// A comment as nft(8) reads it (libnftnl's `enum nftnl_udata_rule_types`: 0, its length, and a text ended by a zero byte).
fn rule_comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

fn pair(message: Message, (key, value): &(Vec<u8>, Vec<u8>)) -> Message {
    let message = message.nest(1, |m| m.bytes(1, key));
    if value.is_empty() { message } else { message.nest(2, |m| m.bytes(1, value)) }
}

/// The kernel's name of an expression.
const fn name(expression: &Expression) -> &'static str {
    match expression {
        Expression::Meta(..) => "meta",
        Expression::Load(..) | Expression::Store(..) => "payload",
        Expression::Compare(..) => "cmp",
        Expression::Mask(..) => "bitwise",
        Expression::InSet(..) | Expression::Translate(..) => "lookup",
        Expression::Immediate(..) | Expression::Verdict(_) => "immediate",
        Expression::DestinationKind(_) => "fib",
        Expression::Connection(..) => "ct",
        Expression::Dnat { .. } => "nat",
        Expression::Masquerade => "masq",
        Expression::Counter => "counter",
    }
}

/// An expression's attributes (`linux/netfilter/nf_tables.h`, each kind's own enum).
fn data(message: Message, expression: &Expression) -> Message {
    let number = |register: &Register| *register as u32;
    match expression {
        Expression::Meta(key, to) => {
            let key = match key {
                Meta::Protocol => 1,
                Meta::Mark => 3,
                Meta::InputName => 6,
                Meta::OutputName => 7,
                Meta::Family => 15,
                Meta::Transport => 16,
            };
            message.number(1, number(to)).number(2, key)
        }
        Expression::Load(field, to) => place(message.number(1, number(to)), *field),
        Expression::Store(field, from) => {
            let (kind, offset, flags) = field.checksum_attributes();
            let message = place(message.number(5, number(from)), *field);
            message.number(6, kind).number(7, offset).number(8, flags)
        }
        Expression::Compare(from, equality, value) => {
            let operation = match equality {
                Equality::Equal => 0,
                Equality::Different => 1,
            };
            message.number(1, number(from)).number(2, operation).nest(3, |m| m.bytes(1, value))
        }
        Expression::Mask(register, mask) => {
            let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
            message
                .number(1, number(register))
                .number(2, number(register))
                .number(3, length)
                .nest(4, |m| m.bytes(1, mask))
                .nest(5, |m| m.bytes(1, &vec![0; mask.len()]))
        }
        Expression::InSet(from, set) => message.text(1, set).number(2, number(from)),
        Expression::Translate(register, map) => {
            message.text(1, map).number(2, number(register)).number(3, number(register))
        }
        Expression::Immediate(to, value) => message.number(1, number(to)).nest(2, |m| m.bytes(1, value)),
        Expression::DestinationKind(to) => {
            const ADDRESS_TYPE: u32 = 3;
            const DESTINATION: u32 = 1 << 1;
            message.number(1, number(to)).number(2, ADDRESS_TYPE).number(3, DESTINATION)
        }
        Expression::Connection(key, to) => {
            let key = match key {
                Connection::State => 0,
                Connection::Status => 2,
            };
            message.number(1, number(to)).number(2, key)
        }
        Expression::Dnat { address, port } => {
            const DESTINATION: u32 = 1;
            message
                .number(1, DESTINATION)
                .number(2, Family::Ip as u32)
                .number(3, number(address))
                .number(5, number(port))
        }
        Expression::Masquerade | Expression::Counter => message,
        Expression::Verdict(verdict) => {
            // The register 0 is that of verdicts.
            message.number(1, 0).nest(2, |m| m.nest(2, |m| code(m, verdict)))
        }
    }
}

fn place(message: Message, field: Field) -> Message {
    message.number(2, field.header_number()).number(3, field.offset).number(4, field.length)
}

/// `enum nft_verdict_attributes`; `NF_DROP`, `NF_ACCEPT`, `NFT_JUMP`, `NFT_GOTO`.
fn code(message: Message, verdict: &Verdict) -> Message {
    match verdict {
        Verdict::Drop => message.number(1, 0),
        Verdict::Accept => message.number(1, 1),
        Verdict::Jump(chain) => message.number(1, (-3_i32).cast_unsigned()).text(2, chain),
        Verdict::Goto(chain) => message.number(1, (-4_i32).cast_unsigned()).text(2, chain),
    }
}
