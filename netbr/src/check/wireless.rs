//! Which interfaces are Wi-Fi, by nl80211: `/sys/class/net` shows the namespace that it was mounted in, not the one that is asked about.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::dump::{ask, attribute, attributes, word};

/// A Wi-Fi interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wireless {
    /// The interface's number.
    pub index: u32,
    /// What it is in its Wi-Fi.
    pub mode: WirelessMode,
    /// Whether it speaks with four addresses, with which a station can stand for others (WDS; both ends must be set so).
    pub four_addresses: bool,
}

/// What an interface is in its Wi-Fi.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WirelessMode {
    /// A client of an access point.
    Station,
    /// The access point itself.
    AccessPoint,
    /// Something else, such as a monitor or a mesh.
    Other,
}

/// The Wi-Fi interfaces of the calling thread's network namespace.
pub(super) fn interfaces() -> io::Result<Vec<Wireless>> {
    /// The controller of the generic families (linux/genetlink.h): GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_….
    const CONTROLLER: u16 = 0x10;
    const GET_FAMILY: u8 = 3;
    const FAMILY_ID: u16 = 1;
    const FAMILY_NAME: u16 = 2;
    /// linux/nl80211.h.
    const GET_INTERFACE: u8 = 5;

    // `struct genlmsghdr`: command, version, nothing.
    let question = [vec![GET_FAMILY, 1, 0, 0], attribute(FAMILY_NAME, b"nl80211\0")].concat();
    let family = match ask(NETLINK_GENERIC, CONTROLLER, NLM_F_ACK, &question) {
        Ok(answer) => answer,
        // No driver for Wi-Fi is loaded.
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let id = family.iter().flat_map(|message| attributes(message.get(4..).unwrap_or_default()));
    let Some(id) =
        id.filter(|(number, _)| *number == FAMILY_ID).find_map(|(_, id)| id.first_chunk().copied())
    else {
        return Ok(Vec::new());
    };
    let answer = ask(NETLINK_GENERIC, u16::from_ne_bytes(id), NLM_F_DUMP, &[GET_INTERFACE, 0, 0, 0])?;
    Ok(answer.iter().filter_map(|message| read(message)).collect())
}

fn read(message: &[u8]) -> Option<Wireless> {
    /// NL80211_ATTR_… and NL80211_IFTYPE_… of linux/nl80211.h.
    const INDEX: u16 = 3;
    const TYPE: u16 = 5;
    const FOUR_ADDRESSES: u16 = 83;
    const STATION: u32 = 2;
    const ACCESS_POINT: u32 = 3;

    let (mut index, mut mode, mut four_addresses) = (None, WirelessMode::Other, false);
    for (number, value) in attributes(message.get(4..)?) {
        match number {
            INDEX => index = Some(word(&value, 0)),
            TYPE if word(&value, 0) == STATION => mode = WirelessMode::Station,
            TYPE if word(&value, 0) == ACCESS_POINT => mode = WirelessMode::AccessPoint,
            FOUR_ADDRESSES => four_addresses = value.first().is_some_and(|on| *on != 0),
            _ => {}
        }
    }
    Some(Wireless { index: index?, mode, four_addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_station_is_told_from_an_access_point() {
        // NL80211_CMD_NEW_INTERFACE with ifindex, ifname, iftype and 4addr.
        let message = |mode: u32, four: u8| {
            let attributes = [
                attribute(3, &7_u32.to_ne_bytes()),
                attribute(4, b"wlan0\0"),
                attribute(5, &mode.to_ne_bytes()),
                attribute(83, &[four]),
            ];
            [vec![7, 1, 0, 0], attributes.concat()].concat()
        };
        let station = Wireless { index: 7, mode: WirelessMode::Station, four_addresses: false };
        assert_eq!(read(&message(2, 0)), Some(station));
        assert_eq!(read(&message(2, 1)), Some(Wireless { four_addresses: true, ..station }));
        assert_eq!(read(&message(3, 0)), Some(Wireless { mode: WirelessMode::AccessPoint, ..station }));
        assert_eq!(read(&message(6, 0)), Some(Wireless { mode: WirelessMode::Other, ..station }));
        assert_eq!(read(&[7, 1, 0, 0]), None);
        assert_eq!(read(&[]), None);
    }
}
