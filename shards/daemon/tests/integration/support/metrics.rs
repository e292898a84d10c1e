//! Reading /metrics.

use std::collections::BTreeMap;

/// One scrape: each series, named as in the text, with its value.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text; a line that is neither a comment nor a sample is a failure.
    pub(crate) fn parse(text: &str) -> Self {
        let mut series = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
            assert!(series.insert(name.to_owned(), value).is_none(), "twice: {name}");
        }
        Self(series)
    }

    /// The sum over all shards of a metric, or of its rows with a label as in `how="quit"`.
    pub(crate) fn sum(&self, name: &str, label: &str) -> u64 {
        self.of(name, label).sum::<f64>() as u64
    }

    /// The sum over all shards and labels.
    pub(crate) fn total(&self, name: &str) -> u64 {
        self.sum(name, "")
    }

    /// The values of a metric without further labels, shard by shard.
    pub(crate) fn by_shard(&self, name: &str) -> Vec<u64> {
        let values: Vec<u64> = self.of(name, "").map(|value| value as u64).collect();
        assert!(!values.is_empty(), "no such metric: {name}");
        values
    }

    fn of<'a>(&'a self, name: &'a str, label: &'a str) -> impl Iterator<Item = f64> + 'a {
        let fits = move |series: &str| {
            let rest = series.strip_prefix(name);
            rest.is_some_and(|rest| (rest.is_empty() || rest.starts_with('{')) && rest.contains(label))
        };
        assert!(self.0.keys().any(|series| fits(series)), "no such metric: {name} {label}");
        self.0.iter().filter(move |(series, _)| fits(series)).map(|(_, value)| *value)
    }
}
