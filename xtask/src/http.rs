//! As much HTTP as asking the server's health and metrics takes: one GET, the answer read to its end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The longest wait for a connection, and for each read.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer that is believed, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Status code and body of `GET path`.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("no HTTP at {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP/1.0, so that the body comes in one piece and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
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
}
