//! What was measured: rows of samples, as a table to read and as JSON to keep.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The limit that a row is held to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bar {
    /// ringpost's median is at most this.
    AtMost(f64),
    /// ringpost's median is at least this.
    AtLeast(f64),
    /// ringpost's median is at most this share of the other's.
    ShareOf(String, f64),
}

/// One measure in one scenario, with the samples of each server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// What the servers were put to.
    pub(crate) scenario: String,
    /// What was read.
    pub(crate) measure: String,
    /// Its unit; empty for a count.
    pub(crate) unit: String,
    /// The limit, if the project has set one.
    pub(crate) bar: Option<Bar>,
    /// What a reader has to know of how it came about, in a sentence.
    pub(crate) note: Option<String>,
    samples: BTreeMap<String, Vec<f64>>,
}

impl Row {
    /// A row without samples.
    pub(crate) fn new(scenario: &str, measure: &str, unit: &str) -> Self {
        let (scenario, measure, unit) = (scenario.to_owned(), measure.to_owned(), unit.to_owned());
        Row { scenario, measure, unit, bar: None, note: None, samples: BTreeMap::new() }
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, server: &str, value: f64) {
        self.samples.entry(server.to_owned()).or_default().push(value);
    }

    /// The median of a server's samples.
    pub(crate) fn median(&self, server: &str) -> Option<f64> {
        let mut samples = self.samples.get(server)?.clone();
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        match samples.len() {
            0 => None,
            count if count % 2 == 1 => Some(samples[middle]),
            _ => Some((samples[middle - 1] + samples[middle]) / 2.0),
        }
    }

    /// ringpost's median as a share of the other's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        Some(self.median("ringpost")? / self.median("postfix")?)
    }

    /// Whether the limit is kept; none without a limit, or without the samples to tell.
    pub(crate) fn is_met(&self) -> Option<bool> {
        match self.bar.as_ref()? {
            Bar::AtMost(limit) => Some(self.median("ringpost")? <= *limit),
            Bar::AtLeast(limit) => Some(self.median("ringpost")? >= *limit),
            Bar::ShareOf(other, share) => Some(self.median("ringpost")? <= share * self.median(other)?),
        }
    }

    /// The row for the record.
    pub(crate) fn to_json(&self) -> Value {
        let bar = match &self.bar {
            None => Value::Null,
            Some(Bar::AtMost(limit)) => json!({ "at_most": limit }),
            Some(Bar::AtLeast(limit)) => json!({ "at_least": limit }),
            Some(Bar::ShareOf(other, share)) => json!({ "share_of": other, "share": share }),
        };
        json!({
            "scenario": self.scenario, "measure": self.measure, "unit": self.unit, "bar": bar, "note": self.note,
            "samples": self.samples,
        })
    }

    /// The row of a record; none when it isn't one.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let mut row = Row::new(value["scenario"].as_str()?, value["measure"].as_str()?, value["unit"].as_str()?);
        let bar = &value["bar"];
        row.bar = match (bar["at_most"].as_f64(), bar["share_of"].as_str(), bar["share"].as_f64()) {
            (Some(limit), _, _) => Some(Bar::AtMost(limit)),
            (_, Some(other), Some(share)) => Some(Bar::ShareOf(other.to_owned(), share)),
            _ => None,
        };
        row.note = value["note"].as_str().map(str::to_owned);
        for (server, samples) in value["samples"].as_object()? {
            samples.as_array()?.iter().filter_map(Value::as_f64).for_each(|sample| row.add(server, sample));
        }
        Some(row)
    }
}

/// The rows as a Markdown table, which reads well in a terminal too.
pub(crate) fn table(rows: &[Row]) -> String {
    let header = ["scenario", "measure", "ringpost", "postfix", "ratio", "bar", "met"].map(str::to_owned);
    let mut lines = vec![header];
    lines.extend(rows.iter().map(cells));
    let widths: Vec<usize> =
        (0..lines[0].len()).map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("| {cell:width$} "));
        }
        text.push_str("|\n");
        if number == 0 {
            widths.iter().for_each(|width| text.push_str(&format!("|{}", "-".repeat(width + 2))));
            text.push_str("|\n");
        }
    }
    text
}

/// The notes of the rows as a Markdown list; empty if there is none. What several rows say stands once.
pub(crate) fn notes(rows: &[Row]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for row in rows {
        let line = row.note.as_ref().map(|note| format!("- {}: {note}\n", row.scenario));
        lines.extend(line.filter(|line| !lines.contains(line)));
    }
    if lines.is_empty() { String::new() } else { format!("\n{}", lines.concat()) }
}

fn cells(row: &Row) -> [String; 7] {
    let value = |server| match row.median(server) {
        Some(median) => format!("{} {}", number(median), row.unit).trim_end().to_owned(),
        None => "–".to_owned(),
    };
    let bar = match &row.bar {
        None => String::new(),
        Some(Bar::AtMost(limit)) => format!("≤ {} {}", number(*limit), row.unit).trim_end().to_owned(),
        Some(Bar::AtLeast(limit)) => format!("≥ {} {}", number(*limit), row.unit).trim_end().to_owned(),
        Some(Bar::ShareOf(other, share)) => format!("≤ 1/{:.0} of {other}", 1.0 / share),
    };
    let met = match row.is_met() {
        Some(true) => "yes",
        Some(false) => "NO",
        None if row.bar.is_some() => "?",
        None => "",
    };
    let ratio = row.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
    [row.scenario.clone(), row.measure.clone(), value("ringpost"), value("postfix"), ratio, bar, met.to_owned()]
}

/// Enough digits to compare, not more.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let mut row = Row::new("accepted, 1 a connection", "server CPU a message", "ms");
        row.bar = Some(Bar::ShareOf("postfix".to_owned(), 0.125));
        row.note = Some("a note".to_owned());
        [0.2, 0.1, 0.3].iter().for_each(|sample| row.add("ringpost", *sample));
        [1.9, 2.1].iter().for_each(|sample| row.add("postfix", *sample));
        row
    }

    #[test]
    fn medians_and_bars() {
        let mut row = row();
        assert_eq!(row.median("ringpost"), Some(0.2));
        assert_eq!(row.median("postfix"), Some(2.0));
        assert_eq!(row.is_met(), Some(true));
        row.bar = Some(Bar::AtMost(0.19));
        assert_eq!(row.is_met(), Some(false));
        row.bar = Some(Bar::ShareOf("exim".to_owned(), 0.5));
        assert_eq!(row.is_met(), None);
    }

    #[test]
    fn rows_survive_their_record() {
        assert_eq!(Row::from_json(&row().to_json()), Some(row()));
        assert_eq!(Row::from_json(&json!({})), None);
    }

    #[test]
    fn the_table() {
        let text = table(&[row()]);
        let last = text.lines().last().expect("has rows");
        assert_eq!(
            last,
            "| accepted, 1 a connection | server CPU a message | 0.2000 ms | 2.00 ms | 0.100 | ≤ 1/8 of postfix | yes |"
        );
    }

    #[test]
    fn notes_stand_once() {
        let text = notes(&[row(), row(), Row::new("another", "measure", "")]);
        assert_eq!(text, "\n- accepted, 1 a connection: a note\n");
        assert_eq!(notes(&[]), "");
    }
}
