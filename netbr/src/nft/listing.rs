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

    /// The expressions of all rules of a table, as bytes, rule by rule: enough to see whether one names an interface.
    pub(crate) fn rules(&mut self, family: Family, table: &str) -> Result<Vec<Vec<u8>>, NftError> {
        let request = Message::new(GET_RULE, 0, family).text(1, table);
        self.dump(&request, "list the rules of nftables", |_, attributes| {
            // The kernel lists the table's only, since Linux 4.7 or so; older ones list all.
            let ours = wire::text(attributes, 1).as_deref() == Some(table);
            wire::attribute(attributes, 4).filter(|_| ours).map(<[u8]>::to_vec)
        })
    }
}
