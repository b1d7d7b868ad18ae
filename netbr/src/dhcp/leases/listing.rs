//! What people are shown of the leases.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::super::unix_seconds;
use super::{Leases, State};
use crate::Mac;

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The address.
    pub address: Ipv4Addr,
    /// Whose it is, or for whom it was tried.
    pub mac: Mac,
    /// The name that the guest gives itself.
    pub hostname: Option<String>,
    /// When this ends or ended; nothing for a reservation that was never used.
    pub ends: Option<SystemTime>,
    /// What is so.
    pub state: RowState,
    /// Reserved for this MAC.
    pub reserved: bool,
}

/// What is so about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowState {
    /// Chosen for a guest that has not asked yet.
    Chosen,
    /// Offered to it.
    Offered,
    /// In use by it.
    Bound,
    /// Its time is over; kept for it while there are others.
    Expired,
    /// Given back; kept for it while there are others.
    Released,
    /// Reserved and never used.
    Unused,
    /// Used by something else and avoided for a time.
    Avoided,
}

impl Leases {
    /// Everything that is known, by address.
    #[must_use]
    pub fn list(&self, now: SystemTime) -> Vec<Row> {
        let mut settled = self.clone();
        settled.settle(now);
        let now = unix_seconds(now);
        let time = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        let Self { records, reserved, avoided } = &settled;
        let mut rows: Vec<Row> = records
            .iter()
            .map(|(mac, record)| Row {
                address: record.address,
                mac: *mac,
                hostname: record.hostname.clone(),
                ends: time(record.ends),
                state: match record.state {
                    State::Released => RowState::Released,
                    _ if now >= record.ends => RowState::Expired,
                    State::Chosen => RowState::Chosen,
                    State::Offered => RowState::Offered,
                    State::Bound => RowState::Bound,
                },
                reserved: reserved.get(mac) == Some(&record.address),
            })
            .collect();
        let unused = reserved
            .iter()
            .filter(|(mac, address)| records.get(mac).is_none_or(|record| record.address != **address));
        rows.extend(unused.map(|(mac, address)| Row {
            address: *address,
            mac: *mac,
            hostname: None,
            ends: None,
            state: RowState::Unused,
            reserved: true,
        }));
        rows.extend(avoided.iter().map(|(address, avoided)| Row {
            address: *address,
            mac: avoided.by,
            hostname: None,
            ends: time(avoided.until),
            state: RowState::Avoided,
            reserved: false,
        }));
        rows.sort_by_key(|row| (row.address, row.mac));
        rows
    }
}
