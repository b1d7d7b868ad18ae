//! What the agent tells about, and does to, the guest as a whole.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Agent, encode, refused};
use crate::client::from_value;
use crate::deadline::Deadline;
use crate::error::{Error, ProtocolError};

/// The agent and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The agent's version, such as `7.2.22`.
    pub version: String,
    /// The names of the commands that are switched on.
    pub commands: Vec<String>,
}

/// A network interface of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the guest.
    pub name: String,
    /// Its hardware address, as `52:54:00:12:34:56`.
    pub mac: Option<String>,
    /// Its addresses; those that are no IP addresses are left out.
    pub addresses: Vec<Address>,
}

/// An IP address with the length of its network prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The prefix length, in bits.
    pub prefix: u8,
}

/// How the guest is to go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Off.
    Powerdown,
    /// Halted but not off.
    Halt,
    /// Started anew.
    Reboot,
}

impl Agent {
    /// The agent's version and commands.
    pub async fn info(&self, deadline: Duration) -> Result<Info, Error> {
        let info = self.execute(qapi::qga::guest_info {}, deadline).await?;
        let enabled = info.supported_commands.into_iter().filter(|command| command.enabled);
        Ok(Info { version: info.version, commands: enabled.map(|command| command.name).collect() })
    }

    /// Sets the guest's clock: to this time, or without one to what the guest reads from its hardware clock.
    pub async fn set_time(&self, time: Option<SystemTime>, deadline: Duration) -> Result<(), Error> {
        let arguments = match time {
            None => json!({}),
            Some(time) => {
                let since = time.duration_since(SystemTime::UNIX_EPOCH).ok();
                let nanos =
                    since.and_then(|since| i64::try_from(since.as_nanos()).ok()).ok_or_else(|| {
                        Error::from(ProtocolError::Nonsense(
                            "the agent knows no time before 1970 or after 2262".to_owned(),
                        ))
                    })?;
                json!({"time": nanos})
            }
        };
        self.call("guest-set-time", arguments, Deadline::after(deadline)).await.map(drop)
    }

    /// The guest's network interfaces.
    pub async fn interfaces(&self, deadline: Duration) -> Result<Vec<Interface>, Error> {
        let name = "guest-network-get-interfaces";
        let value = self.call(name, json!({}), Deadline::after(deadline)).await?;
        let list: Vec<Value> = from_value(name, value)?;
        Ok(list.iter().filter_map(interface_from).collect())
    }

    /// Asks the guest to go down.
    ///
    /// The agent answers this only to refuse it, so `Ok` says that it did not refuse; that the guest is down is told
    /// by QMP's `SHUTDOWN`. [`Error::Timeout`] and [`Error::Closed`] may mean that the agent went down before it
    /// could say anything more.
    pub async fn shutdown(&self, mode: Shutdown, deadline: Duration) -> Result<(), Error> {
        let name = "guest-shutdown";
        let mode = match mode {
            Shutdown::Powerdown => "powerdown",
            Shutdown::Halt => "halt",
            Shutdown::Reboot => "reboot",
        };
        let line = encode(name, &json!({"mode": mode}))?;
        let work = async { self.connection.lock().await.exchange_silent(&line).await };
        let result = Deadline::after(deadline).limit(name, work).await?;
        result.map_err(|refusal| refused(name, refusal))
    }
}

fn interface_from(value: &Value) -> Option<Interface> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let addresses = value.get("ip-addresses").and_then(Value::as_array);
    Some(Interface {
        name: text("name")?,
        mac: text("hardware-address"),
        addresses: addresses.into_iter().flatten().filter_map(address_from).collect(),
    })
}

fn address_from(value: &Value) -> Option<Address> {
    Some(Address {
        ip: value.get("ip-address")?.as_str()?.parse().ok()?,
        prefix: value.get("prefix")?.as_u64()?.try_into().ok()?,
    })
}
