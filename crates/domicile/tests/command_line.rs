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
fn runbooks_are_listed_shown_and_checked_without_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let sound = written(folder.path(), SOUND);
    let runbook = |arguments: &[&str]| {
        domicile(&[&["--config", sound.as_str(), "runbook"][..], arguments].concat())
    };
    let output = runbook(&["show", "switchover", "--toml"]);
    assert!(output.status.success());
    let (mine, wrong) =
        (folder.path().join("runbooks/mine.toml"), folder.path().join("wrong.toml"));
    std::fs::create_dir(folder.path().join("runbooks")).unwrap();
    std::fs::write(&mine, &output.stdout).unwrap();
    let text = String::from_utf8(output.stdout).unwrap().replace("catch_up", "catch_us");
    std::fs::write(&wrong, text).unwrap();
    let (mine, wrong) = (mine.to_str().unwrap(), wrong.to_str().unwrap());

    let output = runbook(&["list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "failover",
            "switchover",
            "failback",
            "evacuate-region",
            "drill",
            "forced-drill",
            "add-region",
            "mine"
        ]
    );
    let code = |arguments: &[&str]| runbook(arguments).status.code().unwrap();
    assert_eq!(code(&["show", "mine"]), 0);
    assert_eq!(code(&["show", mine]), 0);
    assert_eq!(code(&["show", "yours"]), 2);
    assert_eq!(code(&["show", wrong]), 2, "there is nothing to show");
    assert_eq!(code(&["lint", mine]), 0);
    assert_eq!(code(&["lint", mine, wrong]), 3);
    assert_eq!(code(&["lint", "/nonexistent/runbook.toml"]), 2);
    let output = runbook(&["lint", wrong]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("wrong.toml: line 26: step[3].do: \"catch_us\" is not a step"), "{said}");
    assert_eq!(code(&["plan", "mine", "to=us"]), 2, "partitions are missing");
    assert_eq!(code(&["plan", "mine", "to=us", "partitions=4", "to=eu"]), 2);
    assert_eq!(code(&["run", "mine", "to=us", "partitions=4"]), 2, "a run names its plan");
    assert_eq!(code(&["plan", "mine", "to=us", "partitions=4"]), 1, "no directory answers");
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
fn who_has_no_file_yet_is_told_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_domicile"));
    let output = command.arg("status").current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("domicile init --from") && said.contains("--config"), "{said}");
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
