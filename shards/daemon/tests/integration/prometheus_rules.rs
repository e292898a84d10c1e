//! The alerts that are shipped for Prometheus: right by the real promtool, about metrics that there are, each tested and each
//! with a runbook.

use crate::support::programs::{Finished, program, run};
use ringpost_metrics::{Counter, Gauge, ProcessGauge, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

const FOLDER: &str = "deploy/prometheus";

const RULES: &str = "ringpost.rules.yml";

const TESTS: &str = "ringpost.rules.test.yml";

/// Where the pages are that alerts lead to.
pub(crate) const RUNBOOKS: &str = "docs/runbooks";

/// What an alert may be.
const SEVERITIES: [&str; 3] = ["critical", "warning", "info"];

/// What promtool makes of a histogram.
const HISTOGRAM_ENDS: [&str; 3] = ["_bucket", "_count", "_sum"];

fn shipped(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn promtool(arguments: &[&str]) -> Finished {
    let mut command = Command::new(program("promtool", "prometheus"));
    run(command.args(arguments).current_dir(Path::new(ROOT).join(FOLDER)), "")
}

/// An alert, as far as the tests look at it.
#[derive(Debug)]
struct Alert {
    name: String,
    /// Everything up to the next one.
    text: String,
}

impl Alert {
    /// What a key is set to, on one line.
    #[track_caller]
    fn value(&self, key: &str) -> &str {
        let prefix = format!("{key}: ");
        let found = self.text.lines().find_map(|line| line.trim_start().strip_prefix(prefix.as_str()));
        found.unwrap_or_else(|| panic!("{} has no {key}", self.name)).trim_matches('"')
    }

    /// The metrics that it names.
    fn metrics(&self) -> BTreeSet<&str> {
        let words = self.text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        words.filter(|word| word.starts_with("ringpost_")).collect()
    }
}

/// The alerts in the order of the file.
fn alerts() -> Vec<Alert> {
    let text = shipped(&format!("{FOLDER}/{RULES}"));
    let parts = text.split("- alert: ").skip(1);
    let alert = |part: &str| {
        let (name, text) = part.split_once('\n').expect("an alert has more than a name");
        Alert { name: name.to_owned(), text: text.to_owned() }
    };
    let alerts: Vec<Alert> = parts.map(alert).collect();
    assert!(alerts.len() > 20, "{} alerts: the file is not understood", alerts.len());
    alerts
}

/// The values that a label can have; nothing for one that is not told apart in the catalogue.
type Labels = BTreeMap<&'static str, BTreeSet<&'static str>>;

/// All metrics that there are.
fn catalogue() -> BTreeMap<&'static str, Labels> {
    let mut all: BTreeMap<&'static str, Labels> = BTreeMap::new();
    let counters = Counter::ALL.iter().map(|row| row.family());
    let gauges = Gauge::ALL.iter().map(|row| row.family());
    for family in counters.chain(gauges).chain(Timing::ALL.iter().map(|row| row.family())) {
        let labels = all.entry(family.name).or_default();
        if let Some((label, value)) = family.label {
            labels.entry(label).or_default().insert(value);
        }
    }
    for family in ProcessGauge::ALL.iter().map(|row| row.family()) {
        let labels = all.entry(family.name).or_default();
        labels.extend(family.label.map(|label| (label, BTreeSet::new())));
    }
    all
}

/// The row of the catalogue that a name in an expression stands for.
fn family(name: &str) -> &str {
    HISTOGRAM_ENDS.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

#[test]
fn promtool_finds_no_fault_in_the_rules_nor_in_the_example() {
    let checked = promtool(&["check", "rules", RULES]).ok().all();
    assert!(checked.contains(&format!("{} rules found", alerts().len())), "{checked}");
    promtool(&["check", "config", "prometheus.yml"]).ok();
}

#[test]
fn each_alert_fires_and_keeps_quiet_as_its_test_says() {
    promtool(&["test", "rules", TESTS]).ok();
    let tests = shipped(&format!("{FOLDER}/{TESTS}"));
    for Alert { name, .. } in alerts() {
        let cases: Vec<&str> =
            tests.split("alertname: ").filter(|part| part.starts_with(&format!("{name}\n"))).collect();
        let quiet = cases.iter().filter(|case| case.contains("exp_alerts: []")).count();
        assert!(quiet > 0, "{name}: no test has it keep quiet");
        assert!(cases.len() > quiet, "{name}: no test has it fire");
    }
}

/// The tests would notice an alert that does not fire, and one that always does.
#[test]
fn the_tests_of_the_alerts_can_fail() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = shipped(&format!("{FOLDER}/{RULES}"));
    fs::write(folder.path().join(TESTS), shipped(&format!("{FOLDER}/{TESTS}"))).expect("written");
    for (now, then) in
        [("up{job=\"ringpost\"} == 0", "up{job=\"ringpost\"} == 2"), ("_space_state) >= 2", "_space_state) >= 0")]
    {
        assert!(rules.contains(now), "{now}");
        fs::write(folder.path().join(RULES), rules.replace(now, then)).expect("written");
        let mut command = Command::new(program("promtool", "prometheus"));
        let told = run(command.args(["test", "rules", TESTS]).current_dir(folder.path()), "");
        assert!(!told.status.success() && told.all().contains("FAILED"), "{then}: {}", told.all());
    }
}

#[test]
fn what_alerts_are_about_is_in_the_catalogue() {
    let catalogue = catalogue();
    for alert in alerts() {
        let metrics = alert.metrics();
        assert!(!metrics.is_empty() || alert.text.contains("up{job=\"ringpost\"}"), "{} is about nothing", alert.name);
        for name in metrics {
            assert!(catalogue.contains_key(family(name)), "{}: there is no metric {name}", alert.name);
        }
        check_labels(&alert, &catalogue);
    }
}

/// Each `name{label="value"}` names a label that the metric has, and a value that this can have.
fn check_labels(alert: &Alert, catalogue: &BTreeMap<&'static str, Labels>) {
    for part in alert.text.split("ringpost_").skip(1) {
        let (name, rest) = part.split_at(part.find(|character: char| !is_in_name(character)).unwrap_or(part.len()));
        let Some(selector) = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()) else { continue };
        let (label, value) = selector.split_once(['=', '!']).expect("a label is held against something");
        let labels = &catalogue[family(&format!("ringpost_{name}"))];
        let known = labels.get(label).unwrap_or_else(|| panic!("{}: {name} has no label {label}", alert.name));
        let values = value.trim_start_matches(['=', '~']).trim_matches('"');
        for value in values.split('|').filter(|_| !known.is_empty()) {
            assert!(known.contains(value), "{}: {name} is never {label}={value}", alert.name);
        }
    }
}

fn is_in_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

#[test]
fn each_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on() {
    let mut seen = BTreeSet::new();
    for alert in alerts() {
        assert!(seen.insert(alert.name.clone()), "{} is there twice", alert.name);
        assert!(alert.name.starts_with("Ringpost"), "{}", alert.name);
        assert!(SEVERITIES.contains(&alert.value("severity")), "{}: {}", alert.name, alert.value("severity"));
        assert!(alert.value("summary").contains("{{ $labels.instance }}"), "{}: of which server?", alert.name);
        assert!(alert.value("description").ends_with('.'), "{}: a description is sentences", alert.name);
        let page = alert.value("runbook_url");
        assert!(page.starts_with(RUNBOOKS), "{}: {page} is not a runbook", alert.name);
        // The page knows of the alert, so that whoever opens it sees what it is for.
        assert!(shipped(page).contains(&format!("`{}`", alert.name)), "{page} says nothing of {}", alert.name);
    }
}

#[test]
fn each_runbook_is_one_that_an_alert_leads_to() {
    let linked: BTreeSet<String> = alerts().iter().map(|alert| alert.value("runbook_url").to_owned()).collect();
    for entry in fs::read_dir(Path::new(ROOT).join(RUNBOOKS)).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("text");
        assert!(linked.contains(&format!("{RUNBOOKS}/{name}")), "no alert leads to {name}");
    }
}
