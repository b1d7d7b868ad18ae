//! The image `busybox`: Debian's kernel and an initial RAM disk with nothing but BusyBox, the least Linux that does what `hello` does. Beside
//! a Debian it shows how much is the kernel's and how much the distribution's.
//!
//! It loads the drivers of its network card, asks for an address by DHCP, serves a page on port 80 and gives the console a shell. There is
//! no agent in it and nothing listens but the web server.

/// Name of the image.
pub const NAME: &str = "busybox";

/// The sign of readiness, in `--wait` syntax: the line that its first program prints at the end.
pub const READY: &str = r"serial:\[init done\]";

/// A word of the kernel's command line begins with this and goes on with the page to serve, in base64.
pub const PAGE_WORD: &str = "midge.page=";
