//! Choosing the way by which a guest is told what it needs to know.

use crate::spec::{Kind, Provision, VmSpec};

/// The way that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// systemd credentials.
    Credentials,
    /// A volume for cloud-init.
    CloudInit,
    /// Credentials for a guest of which nobody knows that it reads them: it costs nothing, and keeps command lines alike.
    Unasked,
    /// Nothing is told.
    Nothing,
}

/// What is known of the guest's system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Guest {
    /// The guest's family, decided.
    pub linux: bool,
    /// systemd's version.
    pub systemd: Option<u32>,
    /// It has cloud-init.
    pub cloud_init: bool,
    /// Its kernel is started directly, so words can be put on its command line.
    pub direct: bool,
    /// It takes networks from credentials.
    pub networks: bool,
}

/// The first version of systemd that takes SSH keys and files from credentials.
const CREDENTIALS_SINCE: u32 = 252;

/// A way that the guest's system cannot go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// No systemd, or an old one.
    #[error(
        "the guest cannot be provisioned by credentials: its image has no systemd of version {CREDENTIALS_SINCE} or later"
    )]
    NoCredentials,
    /// It takes no networks.
    #[error(
        "the guest cannot be told its fixed address by credentials: its image has no systemd-networkd that takes networks \
         from them"
    )]
    NoNetworks,
    /// No cloud-init.
    #[error("the guest cannot be provisioned by cloud-init: its image is not known to have it")]
    NoCloudInit,
    /// A user, files or a fixed address, and nobody to take them.
    #[error(
        "nobody in the guest would take {0}: its image has neither systemd {CREDENTIALS_SINCE} or later nor cloud-init"
    )]
    Nobody(&'static str),
}

impl MethodError {
    /// What to do instead.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NoNetworks => {
                "use an image of `midge image build` or one with systemd 256 or later, or `--provision cloud-init` where the \
                 image has it"
            }
            Self::NoCredentials => "use `--provision none`, or `cloud-init` where the image has it",
            Self::NoCloudInit => {
                "use an image with cloud-init, such as `midge image build debian:12 --with cloud-init` makes"
            }
            Self::Nobody(_) => "leave them out, or use another image",
        }
    }
}

/// Decides how the guest is told.
///
/// A guest whose image says nothing of its system is given credentials, which nobody need read, unless the user wants none. Asked
/// for by name, a way that the image is not known to have is refused.
pub fn method(spec: &VmSpec, guest: Guest) -> Result<Method, MethodError> {
    let credentials = guest.systemd.is_some_and(|version| version >= CREDENTIALS_SINCE);
    let fixed = spec.nets.iter().any(|net| net.fixed_address().is_some());
    let method = match spec.provision {
        Provision::None => Method::Nothing,
        Provision::Credentials if credentials && fixed && !guest.networks => {
            return Err(MethodError::NoNetworks);
        }
        Provision::Credentials if credentials => Method::Credentials,
        Provision::Credentials => return Err(MethodError::NoCredentials),
        Provision::CloudInit if guest.cloud_init => Method::CloudInit,
        Provision::CloudInit => return Err(MethodError::NoCloudInit),
        Provision::Auto if spec.cloud_init.is_some() => {
            if !guest.cloud_init {
                return Err(MethodError::NoCloudInit);
            }
            Method::CloudInit
        }
        Provision::Auto if !guest.linux => Method::Unasked,
        // Without words on the kernel's command line cloud-init cannot be kept from its own search.
        Provision::Auto if guest.cloud_init && !(credentials && guest.direct) => Method::CloudInit,
        Provision::Auto if guest.cloud_init && fixed && !guest.networks => Method::CloudInit,
        Provision::Auto if credentials && fixed && !guest.networks => return Err(MethodError::NoNetworks),
        Provision::Auto if credentials => Method::Credentials,
        Provision::Auto => Method::Unasked,
    };
    let wishes =
        [(spec.user.is_some(), "a user"), (!spec.files.is_empty(), "files"), (fixed, "a fixed address")];
    match wishes.into_iter().find(|(wished, _)| *wished) {
        Some((_, what)) if matches!(method, Method::Unasked | Method::Nothing) => {
            Err(MethodError::Nobody(what))
        }
        _ => Ok(method),
    }
}

impl Guest {
    /// What an image says of its system.
    #[must_use]
    pub fn of(kind: Kind, image: Option<&crate::image::Manifest>, direct: bool) -> Self {
        Self {
            linux: kind == Kind::Linux,
            systemd: image.and_then(|image| image.systemd),
            cloud_init: image.is_some_and(|image| image.cloud_init),
            direct,
            networks: image.is_some_and(|image| image.network_credentials),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Blob;

    const DEBIAN: Guest =
        Guest { linux: true, systemd: Some(252), cloud_init: false, direct: true, networks: true };
    const CLOUD: Guest = Guest { cloud_init: true, ..DEBIAN };

    fn choose(
        provision: Provision,
        guest: Guest,
        change: impl FnOnce(&mut VmSpec),
    ) -> Result<Method, MethodError> {
        let mut spec = VmSpec::named("web");
        spec.provision = provision;
        change(&mut spec);
        method(&spec, guest)
    }

    #[test]
    fn the_fast_way_is_taken_where_the_guest_can() {
        let auto = |guest| choose(Provision::Auto, guest, |_| {});
        assert_eq!(auto(DEBIAN), Ok(Method::Credentials));
        assert_eq!(auto(CLOUD), Ok(Method::Credentials));
        assert_eq!(auto(Guest { systemd: Some(251), ..CLOUD }), Ok(Method::CloudInit));
        assert_eq!(auto(Guest { direct: false, ..CLOUD }), Ok(Method::CloudInit));
        assert_eq!(auto(Guest { direct: false, ..DEBIAN }), Ok(Method::Credentials));
        assert_eq!(auto(Guest { systemd: None, ..DEBIAN }), Ok(Method::Unasked));
        assert_eq!(auto(Guest::default()), Ok(Method::Unasked));
    }

    #[test]
    fn user_data_is_for_cloud_init() {
        let data = |spec: &mut VmSpec| spec.cloud_init = Some(Blob(b"#cloud-config\n".to_vec()));
        assert_eq!(choose(Provision::Auto, CLOUD, data), Ok(Method::CloudInit));
        assert_eq!(choose(Provision::Auto, DEBIAN, data), Err(MethodError::NoCloudInit));
    }

    #[test]
    fn a_fixed_address_is_told_by_whoever_is_listened_to() {
        let fixed = |spec: &mut VmSpec| spec.nets = vec!["bridge=br0,ip=10.0.0.5/8".parse().unwrap()];
        let deaf = Guest { networks: false, ..DEBIAN };
        let deaf_cloud = Guest { networks: false, ..CLOUD };
        assert_eq!(choose(Provision::Auto, DEBIAN, fixed), Ok(Method::Credentials));
        assert_eq!(choose(Provision::Auto, deaf_cloud, fixed), Ok(Method::CloudInit));
        assert_eq!(choose(Provision::Auto, deaf, fixed), Err(MethodError::NoNetworks));
        assert_eq!(choose(Provision::Credentials, deaf_cloud, fixed), Err(MethodError::NoNetworks));
        assert_eq!(choose(Provision::Auto, deaf, |_| {}), Ok(Method::Credentials));
        assert_eq!(choose(Provision::None, DEBIAN, fixed), Err(MethodError::Nobody("a fixed address")));
        let other = Guest::default();
        assert_eq!(choose(Provision::Auto, other, fixed), Err(MethodError::Nobody("a fixed address")));
    }

    #[test]
    fn what_the_image_cannot_do_is_refused_by_name() {
        assert_eq!(choose(Provision::CloudInit, DEBIAN, |_| {}), Err(MethodError::NoCloudInit));
        let old = Guest { systemd: Some(247), ..DEBIAN };
        assert_eq!(choose(Provision::Credentials, old, |_| {}), Err(MethodError::NoCredentials));
        let user = |spec: &mut VmSpec| spec.user = Some("pi".to_owned());
        assert_eq!(choose(Provision::Auto, Guest::default(), user), Err(MethodError::Nobody("a user")));
        assert_eq!(choose(Provision::None, DEBIAN, user), Err(MethodError::Nobody("a user")));
        assert_eq!(choose(Provision::None, DEBIAN, |_| {}), Ok(Method::Nothing));
    }
}
