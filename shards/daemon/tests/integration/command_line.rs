//! `check`, `config show` and the rest of the command line.

use crate::support::programs::{Finished, run};
use crate::support::server::{BINARY, Home};
use crate::support::settings::Settings;
use std::fs;
use std::process::Command;

fn ringpost(arguments: &[&str]) -> Finished {
    run(Command::new(BINARY).args(arguments), "")
}

const WRONG: &str = r#"[server]
hostnam = "mx.example.com"

[limits]
message_size = "1KiB"

[[domain]]
name = "example.com"
target = "nowhere"

[log]
level = "loud"
"#;

#[test]
fn check_reports_every_error_with_its_place() {
    let home = Home::new(1);
    let config = home.path().join("wrong.toml");
    fs::write(&config, WRONG).expect("written");
    let config = config.display().to_string();
    let finished = ringpost(&["check", "--config", &config]);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
    for (place, words) in [
        ("2:1", ["server.hostnam", "\"hostname\""]),
        ("5:16", ["limits.message_size", "64KiB"]),
        ("9:10", ["target", "\"nowhere\""]),
        ("12:9", ["log.level", "warn"]),
    ] {
        let start = format!("{config}:{place}: ");
        let line = finished.err.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("no line at {place}: {}", finished.err));
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    assert_eq!(finished.err.lines().filter(|line| line.starts_with(&config)).count(), 4, "{}", finished.err);
}

#[test]
fn check_reports_where_toml_breaks() {
    let home = Home::new(1);
    let config = home.path().join("broken.toml");
    fs::write(&config, "[server]\nhostname = \"mx.example.com\n").expect("written");
    let finished = ringpost(&["check", "--config", &config.display().to_string()]);
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.err.contains(&format!("{}:2:", config.display())), "{}", finished.err);
}

#[test]
fn check_is_content_with_what_is_right() {
    let home = Home::new(1);
    let config = home.configure(&Settings::default()).display().to_string();
    let finished = ringpost(&["check", "--config", &config]).ok();
    assert_eq!((finished.out.as_str(), finished.err.as_str()), (format!("{config}: ok\n").as_str(), ""));
    ringpost(&["check"]).ok();
}

#[test]
fn what_config_show_prints_passes_check_and_says_the_same() {
    let home = Home::new(1);
    let settings = Settings::default().set("limits", "recipients = 123").listener("a", "implicit");
    let given = home.configure(&settings.domain("example.net", "[\"bob\"]", "mail/{address}")).display().to_string();
    let shown = ringpost(&["config", "show", "--config", &given]).ok().out;
    assert!(shown.contains("recipients = 123") && shown.contains("\"bob\""), "{shown}");
    let again = home.path().join("shown.toml");
    fs::write(&again, &shown).expect("written");
    let again = again.display().to_string();
    ringpost(&["check", "--config", &again]).ok();
    assert_eq!(ringpost(&["config", "show", "--config", &again]).ok().out, shown);
}

#[test]
fn a_wrong_command_line_is_told() {
    for arguments in [&[][..], &["serv"], &["serve", "--confg", "x"]] {
        let finished = ringpost(arguments);
        assert_eq!(finished.status.code(), Some(2), "{arguments:?}");
        assert!(finished.err.contains("Usage"), "{arguments:?}: {}", finished.err);
    }
    assert!(ringpost(&["--version"]).ok().out.starts_with("ringpost "));
}
