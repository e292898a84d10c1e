//! `ringpost explain`: a session told as a story, a line a step.

use super::table::{Side, draw};
use super::words::{plain, took};
use super::{print, print_json};
use crate::cli::ExplainOptions;
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::{Explanation, StepView};
use ringpost_base::Timestamp;
use serde_json::Value;

pub(crate) fn explain(options: &ExplainOptions) -> Result<()> {
    let client = Client::find(&options.server)?;
    let path = format!("/api/v1/explain/{}", options.id);
    if options.json {
        return print_json(&client, &path);
    }
    print(&story(&client.get(&path)?))
}

fn story(explanation: &Explanation) -> String {
    let mut told = format!("session {} on shard {}", plain(&explanation.session), explanation.shard);
    if let Some(message) = &explanation.message {
        told.push_str(&format!(", message {}", plain(message)));
    }
    let Some(first) = explanation.steps.first() else {
        told.push_str(": nothing was decided in it\n");
        return told;
    };
    let from = if explanation.complete { "from" } else { "known from" };
    told.push_str(&format!(", {from} {:.3}\n", first.at));
    if !explanation.complete {
        told.push_str("what came before is no longer remembered: explain.memory is for the recent past\n");
    }
    told.push('\n');
    let columns = [
        ("AFTER", Side::Right),
        ("STAGE", Side::Left),
        ("REPLY", Side::Left),
        ("RULE", Side::Left),
        ("TOOK", Side::Right),
        ("FROM", Side::Left),
    ];
    let rows: Vec<_> = explanation.steps.iter().map(|step| row(step, first.at.0)).collect();
    told.push_str(&draw(&columns, &rows));
    told
}

fn row(step: &StepView, start: Timestamp) -> Vec<String> {
    let inputs: Vec<String> =
        step.inputs.iter().map(|(name, value)| format!("{}={}", plain(name), shown(value))).collect();
    vec![
        format!("{:.3} s", step.at.0.since(start).as_secs_f64()),
        plain(&step.stage),
        step.outcome.map_or(String::new(), |code| code.to_string()),
        step.rule.as_deref().map_or(String::new(), plain),
        took(step.took_us),
        inputs.join(" "),
    ]
}

/// An input's value: text in quotes where it would not be told from what stands around it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => format!("{text:?}"),
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn step(micros: u64, stage: &str, outcome: u16, rule: &str, inputs: &[(&str, Value)]) -> StepView {
        StepView {
            at: Timestamp::from_unix_micros(1_795_179_600_000_000 + micros).into(),
            stage: stage.to_owned(),
            outcome: (outcome > 0).then_some(outcome),
            rule: (!rule.is_empty()).then(|| rule.to_owned()),
            took_us: micros / 10,
            inputs: inputs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        }
    }

    fn check(explanation: &Explanation, expected: &str) {
        assert_eq!(story(explanation), expected);
    }

    fn explanation(steps: Vec<StepView>) -> Explanation {
        Explanation { session: "6P01GGM06A0FQ".to_owned(), message: None, shard: 1, complete: true, steps }
    }

    #[test]
    fn a_session_is_told_step_by_step() {
        let steps = vec![
            step(0, "connect", 0, "", &[("peer", json!("192.0.2.1"))]),
            step(12_340, "helo", 250, "", &[("name", json!("a b\u{1b}[2J")), ("empty", json!(""))]),
            step(2_000_000, "limit", 421, "limits.connections_per_ip", &[("open", json!(10)), ("score", json!(-3))]),
        ];
        check(
            &explanation(steps),
            "\
session 6P01GGM06A0FQ on shard 1, from 2026-11-20T13:00:00.000Z

  AFTER  STAGE    REPLY  RULE                           TOOK  FROM
0.000 s  connect                                        0 µs  peer=192.0.2.1
0.012 s  helo     250                                 1.2 ms  name=\"a b\\u{1b}[2J\" empty=\"\"
2.000 s  limit    421    limits.connections_per_ip  200.0 ms  open=10 score=-3
",
        );
    }

    #[test]
    fn what_is_forgotten_is_told() {
        let mut explanation = explanation(vec![step(500_000, "mail", 250, "", &[])]);
        explanation.complete = false;
        explanation.message = Some("01JD4VXK2Q000000020000000A".to_owned());
        check(
            &explanation,
            "\
session 6P01GGM06A0FQ on shard 1, message 01JD4VXK2Q000000020000000A, known from 2026-11-20T13:00:00.500Z
what came before is no longer remembered: explain.memory is for the recent past

  AFTER  STAGE  REPLY  RULE     TOOK  FROM
0.000 s  mail   250          50.0 ms
",
        );
    }

    #[test]
    fn a_session_without_steps() {
        check(&explanation(Vec::new()), "session 6P01GGM06A0FQ on shard 1: nothing was decided in it\n");
    }
}
