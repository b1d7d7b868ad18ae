//! What tables, chains and rules there are, whoever made them.

use super::error::NftError;
use super::model::Family;
use super::socket::Nft;
use super::wire::{self, Message};

/// `enum nf_tables_msg_types`.
const GET_TABLE: u8 = 1;
const GET_CHAIN: u8 = 4;
const GET_RULE: u8 = 7;

/// A table that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableEntry {
    /// What packets it is for.
    pub family: Family,
    /// Its name.
    pub name: String,
}

/// A chain that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEntry {
    /// What packets its table is for.
    pub family: Family,
    /// Its table's name.
    pub table: String,
    /// Its name.
    pub name: String,
    /// For a base chain, the number of its hook (`enum nf_inet_hooks`).
    pub hook: Option<u32>,
    /// For a base chain, its kind: `filter`, `nat`, `route`.
    pub kind: Option<String>,
    /// Whether a base chain drops what no rule decides about.
    pub drops: bool,
}

/// A rule that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleEntry {
    /// Its chain's name.
    pub chain: String,
    /// Names of interfaces that packets must have come in by. That of a pattern is its beginning.
    pub inputs: Vec<String>,
    /// Names of interfaces that packets must go out by.
    pub outputs: Vec<String>,
}

impl Nft {
    /// All tables of a family.
    pub fn tables(&mut self, family: Family) -> Result<Vec<TableEntry>, NftError> {
        let request = Message::new(GET_TABLE, 0, family);
        self.dump(&request, "list the tables of nftables", |family, attributes| {
            Some(TableEntry { family: Family::from_number(family)?, name: wire::text(attributes, 1)? })
        })
    }

    /// Whether there is a table.
    pub fn exists(&mut self, family: Family, name: &str) -> Result<bool, NftError> {
        Ok(self.tables(family)?.iter().any(|table| table.name == name))
    }

    /// All chains of a family.
    pub fn chains(&mut self, family: Family) -> Result<Vec<ChainEntry>, NftError> {
        let request = Message::new(GET_CHAIN, 0, family);
        self.dump(&request, "list the chains of nftables", |family, attributes| {
            Some(ChainEntry {
                family: Family::from_number(family)?,
                table: wire::text(attributes, 1)?,
                name: wire::text(attributes, 3)?,
                hook: wire::attribute(attributes, 4).and_then(|hook| wire::be32(hook, 1)),
                kind: wire::text(attributes, 7),
                // NF_DROP; chains that the kernel does not call have no policy.
                drops: wire::be32(attributes, 5) == Some(0),
            })
        })
    }

    /// All rules of a table, as far as they name interfaces.
    pub fn rules(&mut self, family: Family, table: &str) -> Result<Vec<RuleEntry>, NftError> {
        let request = Message::new(GET_RULE, 0, family).text(1, table);
        self.dump(&request, "list the rules of nftables", |_, attributes| {
            // Kernels before 4.7 list those of all tables.
            wire::text(attributes, 1).filter(|found| found == table)?;
            Some(RuleEntry::read(
                wire::text(attributes, 2)?,
                wire::attribute(attributes, 4).unwrap_or_default(),
            ))
        })
    }
}

impl RuleEntry {
    /// Reads what is compared directly behind the loading of an interface's name.
    fn read(chain: String, expressions: &[u8]) -> Self {
        const INPUT_NAME: u32 = 6;
        const OUTPUT_NAME: u32 = 7;
        let mut rule = Self { chain, inputs: Vec::new(), outputs: Vec::new() };
        let mut loaded = None;
        for (_, expression) in wire::attributes(expressions) {
            let data = wire::attribute(expression, 2).unwrap_or_default();
            let names = match wire::text(expression, 1).as_deref() {
                Some("meta") => {
                    loaded = wire::be32(data, 2);
                    continue;
                }
                // NFT_CMP_EQ
                Some("cmp") if wire::be32(data, 2) == Some(0) => match loaded {
                    Some(INPUT_NAME) => &mut rule.inputs,
                    Some(OUTPUT_NAME) => &mut rule.outputs,
                    _ => continue,
                },
                _ => continue,
            };
            names.extend(wire::attribute(data, 3).and_then(|value| wire::text(value, 1)));
            loaded = None;
        }
        rule
    }
}
