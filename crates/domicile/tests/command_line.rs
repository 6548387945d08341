//! Do the exit codes say what the help says they say? Runs the binary itself.

use std::path::Path;
use std::process::{Command, Output};

fn domicile(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_domicile"))
        .args(arguments)
        .env_remove("DOMICILE_CONFIG")
        .output()
        .unwrap()
}

fn code(arguments: &[&str]) -> i32 {
    domicile(arguments).status.code().unwrap()
}

fn written(folder: &Path, text: &str) -> String {
    let file = folder.join("domicile.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Sound, and nothing answers at its addresses.
const SOUND: &str = r#"
cluster = "shop"
partition = "whole"
[directory]
address = "127.0.0.1:7400"
data = "/nonexistent"
[[region]]
name = "eu"
postgres = "host=127.0.0.1 port=1 user=postgres dbname=shop"
peer = "127.0.0.1:7401"
gateway = "127.0.0.1:6432"
data = "/nonexistent/eu"
[[region]]
name = "us"
postgres = "host=127.0.0.1 port=2 user=postgres dbname=shop"
peer = "127.0.0.1:7402"
gateway = "127.0.0.1:6433"
data = "/nonexistent/us"
"#;

#[test]
fn exit_codes_are_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let sound = written(folder.path(), SOUND);
    assert_eq!(code(&["--config", &sound, "config", "check"]), 0);
    assert_eq!(code(&["config", "reference"]), 0);
    assert_eq!(code(&["completions", "bash"]), 0);
    assert_eq!(code(&["--config", &sound, "journal", "list"]), 1, "no database answers");
    assert_eq!(code(&["check", "--config", &sound]), 3, "a region that is away is a blocker");
    assert_eq!(code(&["no-such-command"]), 2);
    assert_eq!(code(&["--config", "/nonexistent/domicile.toml", "check"]), 2);
    assert_eq!(code(&["--config", &sound, "check", "--region", "mars"]), 2);
    let from = "host=127.0.0.1 port=1 user=postgres";
    assert_eq!(code(&["--config", &sound, "init", "--from", from]), 2, "the file exists");
    assert_eq!(code(&["init", "--from", from, "--to", "-"]), 1);
}

#[test]
fn a_cause_is_told_once() {
    let output = domicile(&["--config", "/nonexistent/domicile.toml", "check"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "domicile: read /nonexistent/domicile.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn what_is_printed_for_programs_is_json_and_without_colours() {
    let folder = tempfile::tempdir().unwrap();
    let sound = written(folder.path(), SOUND);
    let output = domicile(&["check", "--json", "--config", &sound]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["blockers"], 2);
    assert_eq!(report["findings"][0]["name"], "unreachable");

    let output = domicile(&["check", "--config", &sound]);
    assert!(!output.stdout.contains(&0x1b), "a pipe is no terminal");
}
