//! The lender: what midge is when it runs as [`lender::NAME`], with a capability that its caller does not have.
//!
//! Whoever may run it chooses its arguments, environment, descriptors, limits and working folder, so it trusts none of them: it looks at
//! its own file's name and not at `argv[0]`, reads no variable of the environment and no file, opens no log, and does one thing, which
//! checks by itself that the caller owns the interface ([`netbr::packet::lend`]). The C library and the loader do the same, as the
//! kernel tells them that this program has more rights than its caller (`AT_SECURE`, getauxval(3)), and no other process of the
//! caller's may trace it or read its memory (ptrace(2)). It has no other capability than that of its file: the kernel takes ambient
//! ones away (capabilities(7), "Transformation of capabilities during execve()"), and that one is gone once the socket is open.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::error::chain;
use crate::setup::lender;

/// Whether this process is a lender, and what came of it if so.
pub(super) fn main_if_lender() -> Option<ExitCode> {
    let named = std::env::current_exe().is_ok_and(|exe| exe.file_name().is_some_and(|n| n == lender::NAME));
    let secure = privileged_by_file();
    if !named && !secure {
        return None;
    }
    // What a panic says could help nobody but an attacker.
    std::panic::set_hook(Box::new(|_| {}));
    let done = if named {
        lend()
    } else {
        // A link to a lender under another name must not be a midge with a capability.
        Err("this copy of midge has got rights from its file and does nothing with them; run another one"
            .into())
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // The caller may have closed it.
            let _ = writeln!(io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    })
}

/// Passes frames on between the interface that the one argument names and standard input, until that is closed.
fn lend() -> Result<(), String> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(interface), None) =
        (arguments.next().and_then(|name| name.into_string().ok()), arguments.next())
    else {
        return Err(format!("{} is run by midge only, with the name of an interface", lender::NAME));
    };
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(|e| e.to_string())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|e| e.to_string())?;
    let relay = runtime.block_on(netbr::packet::lend(&interface, stdin)).map_err(|e| chain(&e))?;
    drop(runtime);
    relay.run().map_err(|e| chain(&e))
}

/// Whether the kernel gave this process rights that come from its file (`AT_SECURE`, getauxval(3)). Not by /proc, which a caller
/// can put another file system on.
#[allow(unsafe_code, reason = "no safe call reads the auxiliary vector")]
fn privileged_by_file() -> bool {
    // SAFETY: it takes a number and answers one; nothing is dereferenced.
    unsafe { nix::libc::getauxval(nix::libc::AT_SECURE) != 0 }
}
