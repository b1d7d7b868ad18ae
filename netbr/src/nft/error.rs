//! Why the kernel did not do what was asked.

use std::io;

use nix::errno::Errno;

use super::batch::Step;
use crate::ns::NamespaceError;

/// Why nftables could not be read or changed. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The network namespace cannot be entered.
    #[error("cannot reach nftables")]
    Namespace(#[from] NamespaceError),
    /// There is no socket for it: the kernel was built without nftables or does not find its module.
    #[error(
        "this kernel has no nftables, or does not load it: `modprobe nf_tables` must work (kernel options NF_TABLES, NF_TABLES_INET, NF_TABLES_NETDEV)"
    )]
    Missing(#[source] io::Error),
    /// CAP_NET_ADMIN is missing in the user namespace that the network namespace belongs to.
    #[error("may not {operation}: run it as root or give it CAP_NET_ADMIN")]
    Permission {
        /// What was to be done.
        operation: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The kernel lacks what is needed for this.
    #[error("this kernel cannot {operation}: {needs}")]
    Unsupported {
        /// What was to be done.
        operation: String,
        /// What it needs.
        needs: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// There is no such device.
    #[error("cannot {operation}: there is no interface {device}")]
    NoDevice {
        /// What was to be done.
        operation: String,
        /// The name that it was looked for by.
        device: String,
    },
    /// The kernel has no memory, or no room in a table or a socket.
    #[error(
        "cannot {operation}: the kernel has no room left for it; remove rules that are not needed, or free memory"
    )]
    NoRoom {
        /// What was to be done.
        operation: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The kernel does not do it for another reason.
    #[error("cannot {operation}")]
    Refused {
        /// What was to be done.
        operation: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The kernel said neither yes nor no.
    #[error("cannot {operation}: the kernel gave no answer")]
    Silent {
        /// What was to be done.
        operation: String,
    },
}

impl NftError {
    /// For what the socket itself refuses.
    pub(super) fn socket(errno: Errno, operation: &str) -> Self {
        match errno {
            Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::ESOCKTNOSUPPORT => {
                Self::Missing(errno.into())
            }
            _ => Self::answer(errno, operation.to_owned(), None),
        }
    }

    /// For what the kernel answers to a step of a batch.
    pub(super) fn step(errno: Errno, step: &Step) -> Self {
        Self::answer(errno, step.does.clone(), step.device.as_deref())
    }

    fn answer(errno: Errno, operation: String, device: Option<&str>) -> Self {
        let source = io::Error::from(errno);
        match (errno, device) {
            (Errno::EPERM | Errno::EACCES, _) => Self::Permission { operation, source },
            (Errno::ENOENT | Errno::ENODEV, Some(device)) => {
                Self::NoDevice { operation, device: device.to_owned() }
            }
            (Errno::EOPNOTSUPP, Some(_)) => Self::Unsupported {
                operation,
                needs: "it needs Linux 5.16 with the options NF_TABLES_NETDEV, NETFILTER_INGRESS and NETFILTER_EGRESS",
                source,
            },
            // What a rule or a chain names is in the same batch: what the kernel does not find is code of its own.
            (Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT, None) => {
                Self::Unsupported {
                    operation,
                    needs: "`modprobe nf_tables nft_nat nft_masq nft_ct nft_fib_inet` must work (the same names are kernel options)",
                    source,
                }
            }
            (Errno::ENOMEM | Errno::ENOBUFS | Errno::ENOSPC | Errno::ENFILE | Errno::EMFILE, _) => {
                Self::NoRoom { operation, source }
            }
            _ => Self::Refused { operation, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_answers_is_told_apart() {
        let text = |errno, device| NftError::answer(errno, "add the chain x".to_owned(), device).to_string();
        assert!(text(Errno::EPERM, None).starts_with("may not add the chain x"));
        assert!(text(Errno::ENOENT, None).contains("modprobe nf_tables"));
        assert!(text(Errno::EOPNOTSUPP, Some("tap0")).contains("NETFILTER_EGRESS"));
        assert_eq!(text(Errno::ENOENT, Some("tap0")), "cannot add the chain x: there is no interface tap0");
        for errno in [Errno::ENOBUFS, Errno::ENOSPC, Errno::ENOMEM] {
            assert!(text(errno, None).contains("no room left"));
        }
        assert_eq!(text(Errno::EBUSY, None), "cannot add the chain x");
        assert!(matches!(NftError::socket(Errno::EPROTONOSUPPORT, "open"), NftError::Missing(_)));
    }
}
