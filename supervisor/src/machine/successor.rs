//! The command line of a QEMU that takes a guest over from another one.
//!
//! It is made from the command line in use and not from the VM's spec: the machine must be the same one, whatever has become of the
//! host, the image or the record since it was started.

use std::path::Path;

use super::option::{Property, join, split, text};
use super::{MachineError, READONLY_RAM};

/// What the new QEMU has of its own.
#[derive(Debug, Clone)]
pub struct Successor<'a> {
    /// Listening sockets for the monitor, the serial console and the agent's port.
    pub sockets: [i32; 3],
    /// For each interface of the spec the open tap that is its other end, where it has one.
    pub taps: &'a [Option<i32>],
    /// The disk that it writes to, a qcow2 file, where the machine has one.
    pub disk: Option<&'a Path>,
    /// QEMU's version.
    pub version: (u32, u32, u32),
}

/// A command line, and what has to be asked for by the monitor once the old QEMU has let go of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succession {
    /// The arguments, without the program.
    pub arguments: Vec<String>,
    /// Ports of the host that lead into a user-mode network: the network's id and QEMU's word, `tcp:127.0.0.1:8080-:80`.
    pub forwards: Vec<(String, String)>,
}

/// The arguments for a QEMU that is to load the state of the one that runs with `arguments`. It maps the same RAM file, privately.
///
/// # Errors
/// [`MachineError::NotText`] for a path that QEMU's command line cannot carry.
pub fn successor(arguments: &[String], new: &Successor<'_>) -> Result<Succession, MachineError> {
    let mut made = Succession { arguments: Vec::with_capacity(arguments.len() + 2), forwards: Vec::new() };
    let disk = new.disk.map(text).transpose()?;
    let mut option = "";
    for argument in arguments {
        let mut properties = match option {
            "-chardev" | "-netdev" | "-object" | "-blockdev" => split(argument),
            _ => Vec::new(),
        };
        let id = value(&properties, "id").or_else(|| value(&properties, "node-name")).unwrap_or_default();
        match (option, id.as_str()) {
            ("-chardev", "monitor") => set(&mut properties, "fd", &new.sockets[0].to_string()),
            ("-chardev", "serial") => set(&mut properties, "fd", &new.sockets[1].to_string()),
            ("-chardev", "agent") => set(&mut properties, "fd", &new.sockets[2].to_string()),
            ("-netdev", net) => {
                let index = net.strip_prefix("net").and_then(|index| index.parse::<usize>().ok());
                if let Some(Some(tap)) = index.and_then(|index| new.taps.get(index)) {
                    set(&mut properties, "fd", &tap.to_string());
                }
                let net = net.to_owned();
                properties.retain(|property| match property {
                    Property { key: Some(key), value } if key == "hostfwd" => {
                        made.forwards.push((net.clone(), value.clone()));
                        false
                    }
                    _ => true,
                });
            }
            ("-object", "ram") => {
                set(&mut properties, "share", "off");
                if (new.version.0, new.version.1) >= READONLY_RAM {
                    set(&mut properties, "readonly", "on");
                    set(&mut properties, "rom", "off");
                }
            }
            ("-blockdev", "disk-file") => {
                if let Some(disk) = disk {
                    set(&mut properties, "filename", disk);
                }
            }
            ("-blockdev", "disk") => set(&mut properties, "driver", "qcow2"),
            _ => {}
        }
        made.arguments.push(if properties.is_empty() { argument.clone() } else { join(&properties) });
        option = argument;
    }
    if !arguments.iter().any(|argument| argument == "-incoming") {
        made.arguments.extend(["-incoming".to_owned(), "defer".to_owned()]);
    }
    Ok(made)
}

/// The number of the descriptor that is the tap of this interface, in a command line.
#[must_use]
pub fn tap_number(arguments: &[String], net: usize) -> Option<i32> {
    let id = format!("net{net}");
    let taps = arguments.windows(2).filter(|pair| pair[0] == "-netdev").map(|pair| split(&pair[1]));
    let tap = taps.into_iter().find(|properties| value(properties, "id").as_deref() == Some(&id))?;
    value(&tap, "fd")?.parse().ok()
}

fn value(properties: &[Property], key: &str) -> Option<String> {
    let found = properties.iter().find(|property| property.key.as_deref() == Some(key));
    found.map(|property| property.value.clone())
}

fn set(properties: &mut Vec<Property>, key: &str, value: &str) {
    match properties.iter_mut().find(|property| property.key.as_deref() == Some(key)) {
        Some(property) => value.clone_into(&mut property.value),
        None => properties.push(Property { key: Some(key.to_owned()), value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn all_that_two_processes_cannot_share_is_new_and_the_rest_stays() {
        let old = words(
            "-name guest=a,,b -S -object memory-backend-file,id=ram,mem-path=/dev/shm/a.ram,size=512M,share=on \
             -chardev socket,id=monitor,fd=10,server=on,wait=off \
             -chardev socket,id=serial,fd=11,server=on,logfile=/x,,y \
             -netdev user,id=net0,hostfwd=tcp:127.0.0.1:80-:80,hostfwd=tcp:127.0.0.1:81-:81 -netdev tap,id=net1,fd=13 \
             -device virtio-net-pci,id=nic0,netdev=net0 -chardev socket,id=agent,fd=12,server=on \
             -blockdev driver=file,node-name=disk-file,filename=/vms/a/disk.raw \
             -blockdev driver=raw,node-name=disk,file=disk-file -blockdev driver=file,node-name=seed-file,filename=/seed",
        );
        let disk = Path::new("/vms/a/disk.next.qcow2");
        let new = Successor {
            sockets: [20, 21, 22],
            taps: &[None, Some(23)],
            disk: Some(disk),
            version: (10, 0, 2),
        };
        let made = successor(&old, &new).unwrap();
        let wanted = words(
            "-name guest=a,,b -S \
             -object memory-backend-file,id=ram,mem-path=/dev/shm/a.ram,size=512M,share=off,readonly=on,rom=off \
             -chardev socket,id=monitor,fd=20,server=on,wait=off \
             -chardev socket,id=serial,fd=21,server=on,logfile=/x,,y \
             -netdev user,id=net0 -netdev tap,id=net1,fd=23 \
             -device virtio-net-pci,id=nic0,netdev=net0 -chardev socket,id=agent,fd=22,server=on \
             -blockdev driver=file,node-name=disk-file,filename=/vms/a/disk.next.qcow2 \
             -blockdev driver=qcow2,node-name=disk,file=disk-file -blockdev driver=file,node-name=seed-file,filename=/seed \
             -incoming defer",
        );
        assert_eq!(made.arguments, wanted);
        let forward = |word: &str| ("net0".to_owned(), word.to_owned());
        assert_eq!(made.forwards, [forward("tcp:127.0.0.1:80-:80"), forward("tcp:127.0.0.1:81-:81")]);
        assert_eq!(tap_number(&old, 1), Some(13));
        assert_eq!(tap_number(&old, 0), None);

        let older = successor(&old, &Successor { version: (7, 2, 22), ..new.clone() }).unwrap();
        assert!(
            older.arguments.iter().any(|word| word.ends_with("share=off")),
            "it has no read-only mapping"
        );
        let again = successor(&made.arguments, &new).unwrap();
        assert_eq!(again.arguments, made.arguments, "a successor has one like it");
    }
}
