//! As much HTTP as asking the server's health and metrics takes: one GET, the answer read to its end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The longest wait for a connection, and for each read.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer that is believed, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Status code and body of `GET path`.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("no HTTP at {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(stream, path)
}

/// The same over a unix socket.
pub(crate) fn get_unix(socket: &Path, path: &str) -> Result<(u16, String)> {
    let stream = UnixStream::connect(socket).with_context(|| format!("no HTTP at {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(stream, path)
}

fn ask(mut stream: impl Read + Write, path: &str) -> Result<(u16, String)> {
    // HTTP/1.0, so that the body comes in one piece and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).context("reading the answer")?;
    parse(&answer)
}

/// The sum of a metric over all its label sets; none when it isn't there.
pub(crate) fn metric(address: SocketAddr, name: &str) -> Result<Option<f64>> {
    match get(address, "/metrics")? {
        (200, text) => Ok(sum(&text, name)),
        (status, _) => bail!("/metrics answered {status}"),
    }
}

/// Every series of every gauge whose name starts with `prefix`, with its labels and its value.
pub(crate) fn gauges(address: SocketAddr, prefix: &str) -> Result<Vec<(String, f64)>> {
    match get(address, "/metrics")? {
        (200, text) => Ok(series(&text, prefix)),
        (status, _) => bail!("/metrics answered {status}"),
    }
}

fn series(text: &str, prefix: &str) -> Vec<(String, f64)> {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let gauges: Vec<&str> =
        kinds.filter(|(name, kind)| *kind == "gauge" && name.starts_with(prefix)).map(|(name, _)| name).collect();
    let samples = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        gauges.contains(&name).then_some(())?;
        Some((series.to_owned(), value.parse().ok()?))
    });
    samples.collect()
}

fn parse(answer: &str) -> Result<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}

fn sum(text: &str, name: &str) -> Option<f64> {
    let samples = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let base = series.split('{').next()?;
        (base == name).then(|| value.parse::<f64>().ok())?
    });
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        assert_eq!(parse("HTTP/1.0 200 OK\r\nA: b\r\n\r\nready").expect("parses"), (200, "ready".to_owned()));
        assert!(parse("nonsense").is_err());
    }

    #[test]
    fn metrics_are_summed_over_shards() {
        let text = "# TYPE a counter\na{shard=\"0\"} 2\na{shard=\"1\"} 3.5\nab 7\n";
        assert_eq!(sum(text, "a"), Some(5.5));
        assert_eq!(sum(text, "ab"), Some(7.0));
        assert_eq!(sum(text, "b"), None);
    }

    #[test]
    fn gauges_are_told_from_counters_and_from_others() {
        let text = "# HELP x_open Open.\n# TYPE x_open gauge\nx_open{shard=\"0\"} 2\nx_open{shard=\"1\"} 0\n\
                    # TYPE x_total counter\nx_total 7\n# TYPE y_open gauge\ny_open 1\n";
        let expected = [("x_open{shard=\"0\"}".to_owned(), 2.0), ("x_open{shard=\"1\"}".to_owned(), 0.0)];
        assert_eq!(series(text, "x_"), expected);
        assert_eq!(series("", "x_"), []);
    }
}
