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

    /// The sums over all shards by the value of a label, without those that are 0.
    pub(crate) fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        let labelled = self.0.iter().filter_map(|(series, value)| Some((series.strip_prefix(name)?, value)));
        for (labels, value) in labelled.filter(|(labels, value)| labels.starts_with('{') && **value > 0.0) {
            let rest = labels.split_once(&format!("{label}=\"")).map(|(_, rest)| rest);
            let text = rest.and_then(|rest| rest.split('"').next()).unwrap_or_else(|| panic!("no {label} in {labels}"));
            *sums.entry(text.to_owned()).or_default() += *value as u64;
        }
        sums
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
