//! `completions` and `man`: made from the same definitions as the parser.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::args::Cli;
use crate::cli::exit::Failed;
use crate::cli::{Outcome, output};

/// `midge completions`.
pub(super) fn completions(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(), "midge", &mut script);
    output::bytes(&script)?;
    Ok(0)
}

/// The definitions without the verbs that are hidden, which bash's generator would offer all the same.
fn shown() -> clap::Command {
    let whole = Cli::command();
    let verbs: Vec<_> = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().collect();
    clap::Command::new("midge").args(whole.get_arguments().cloned()).subcommands(verbs)
}

/// `midge man`: one page for each verb.
pub(super) fn man(folder: &Path) -> Outcome {
    let failed = |e| Failed::io(format!("cannot write man pages to {}", folder.display()), e);
    fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shown_verb_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        man(folder.path()).unwrap();
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let page =
                fs::read_to_string(folder.path().join(format!("midge-{}.1", verb.get_name()))).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{}", verb.get_name());
        }
        assert!(folder.path().join("midge.1").exists());
        assert!(!folder.path().join("midge-supervise.1").exists(), "hidden verbs have none");
    }

    #[test]
    fn every_shell_gets_a_script_that_knows_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut shown(), "midge", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("inspect") && script.contains("if-not-exists"), "{shell}");
        }
    }
}
