use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::*;
use crate::spec::{Ready, Size};

fn parse(words: &[&str]) -> Result<Verb, clap::Error> {
    Cli::try_parse_from([&["midge"], words].concat()).map(|cli| cli.verb)
}

#[test]
fn the_definitions_hold_together() {
    Cli::command().debug_assert();
}

#[test]
fn the_older_tools_words_are_understood() {
    let verb = parse(&["create", "testvm", "--os", "debian", "--cpus", "1", "--ram", "512", "--disk", "5"]);
    let Ok(Verb::Create(args)) = verb else { panic!("{verb:?}") };
    assert_eq!(args.positional.as_deref(), Some("testvm"));
    assert_eq!(args.spec.image.as_deref(), Some("debian"));
    assert_eq!(args.spec.cpus, Some(1));
    assert_eq!(args.spec.memory, Some(Size::from_mib(512)));
    assert_eq!(args.spec.disk, Some(Size::from_mib(5 * 1024)));
}

#[test]
fn run_takes_an_image_and_a_command_apart() {
    let verb = parse(&["run", "debian:12", "-m", "1G", "--", "ls", "-l"]);
    let Ok(Verb::Run(args)) = verb else { panic!("{verb:?}") };
    assert_eq!(args.target.as_deref(), Some("debian:12"));
    assert_eq!(args.command, ["ls", "-l"]);
    assert!(parse(&["run"]).is_err(), "nothing to boot");
    assert!(parse(&["run", "--kernel", "k"]).is_ok());
    assert!(parse(&["run", "debian", "--kernel", "k"]).is_err(), "two things to boot");
    assert!(parse(&["run", "debian", "-d", "--", "ls"]).is_err(), "a command is for the foreground");
    assert!(parse(&["run", "debian", "--wait"]).is_err(), "--wait is for -d");
}

#[test]
fn wait_takes_its_sign_after_an_equals_sign_only() {
    let verb = parse(&["start", "--wait", "web"]);
    let Ok(Verb::Start(args)) = verb else { panic!("{verb:?}") };
    assert_eq!((args.names, args.wait), (vec!["web".to_owned()], Some(WaitFor::Ready)));
    let verb = parse(&["start", "--wait=tcp:80", "--timeout", "2m", "web"]);
    let Ok(Verb::Start(args)) = verb else { panic!("{verb:?}") };
    assert_eq!(args.wait, Some(WaitFor::Sign(Ready::Tcp(80))));
    assert_eq!(args.timeout, Some(Duration::from_mins(2)));
}

#[test]
fn exec_leaves_the_commands_own_flags_alone() {
    for words in [
        &["exec", "-e", "A=b", "-w", "/", "web", "--", "ls", "-e", "--", "x"][..],
        &["exec", "-e", "A=b", "-w", "/", "web", "ls", "-e", "--", "x"],
    ] {
        let verb = parse(words);
        let Ok(Verb::Exec(args)) = verb else { panic!("{verb:?}") };
        assert_eq!(args.name, "web");
        assert_eq!(args.command, ["ls", "-e", "--", "x"]);
        assert_eq!(args.env, [("A".to_owned(), "b".to_owned())]);
    }
}

#[test]
fn aliases_are_silent() {
    for (alias, verb) in [
        ("list", "ls"),
        ("ps", "ls"),
        ("delete", "rm"),
        ("launch", "run"),
        ("info", "inspect"),
        ("show", "inspect"),
        ("shell", "ssh"),
        ("copy", "cp"),
    ] {
        let command = Cli::command();
        let found = command.find_subcommand(alias).unwrap_or_else(|| panic!("{alias}"));
        assert_eq!(found.get_name(), verb);
        assert_eq!(found.get_visible_aliases().count(), 0);
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for words in
        [&["frobnicate"][..], &["ls", "-o", "xml"], &["create", "--memory", "lots"], &["set", "web"], &["rm"]]
    {
        assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
    }
}

#[test]
fn bare_memory_is_mib_and_its_help_says_so() {
    let help = Cli::command().find_subcommand_mut("create").unwrap().render_long_help().to_string();
    assert!(help.contains("a bare number is MiB"));
    assert!(help.contains("a bare number is GiB"));
}

#[test]
fn a_sign_may_stand_beside_its_flag() {
    let joined = |line: &str| {
        let words = super::join_waits(line.split(' ').map(std::ffi::OsString::from));
        words.iter().map(|w| w.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(joined("midge start web --wait ssh"), "midge start web --wait=ssh");
    assert_eq!(joined("midge start --wait tcp:80 web"), "midge start --wait=tcp:80 web");
    assert_eq!(joined("midge start --wait web"), "midge start --wait web");
    assert_eq!(joined("midge ip web --wait 30s"), "midge ip web --wait 30s");
    assert_eq!(joined("midge run a -- --wait ssh"), "midge run a -- --wait ssh");
}
