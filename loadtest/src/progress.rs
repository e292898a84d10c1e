//! The progress line on standard error: renewed in place each second on a terminal, one plain line every five seconds
//! elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::stats::{Recorder, Stage};

const TERMINAL_INTERVAL: Duration = Duration::from_secs(1);
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct Progress {
    start: Instant,
    quiet: bool,
    terminal: bool,
    last_shown: Instant,
    last_acknowledged: u64,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(start: Instant, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { start, quiet, terminal, last_shown: start, last_acknowledged: 0, shown: false }
    }

    /// Shows how far these workers are, if it is time to.
    pub(crate) fn show<'a>(&mut self, recorders: impl Iterator<Item = &'a Recorder>) {
        let since = self.last_shown.elapsed();
        if self.quiet || since < if self.terminal { TERMINAL_INTERVAL } else { PLAIN_INTERVAL } {
            return;
        }
        let (mut acknowledged, mut in_flight, mut errors) = (0, 0, 0);
        let mut latency: Option<Histogram<u64>> = None;
        for recorder in recorders {
            let stats = recorder.stats();
            acknowledged += stats.acknowledged;
            in_flight += stats.in_flight();
            errors += stats.refused + stats.failed;
            let own = stats.stage(Stage::Message);
            match &mut latency {
                None => latency = Some(own.clone()),
                // Fails only for histograms of different bounds.
                Some(all) => drop(all.add(own)),
            }
        }
        let rate = (acknowledged - self.last_acknowledged) as f64 / since.as_secs_f64();
        let p99 = latency.map_or(0, |latency| latency.value_at_quantile(0.99));
        self.write(format_args!(
            "{:4}s  {acknowledged} acknowledged  {rate:.0}/s  {in_flight} in flight  {errors} errors  p99 {:.1} ms",
            self.start.elapsed().as_secs(),
            p99 as f64 / 1000.0,
        ));
        self.last_acknowledged = acknowledged;
    }

    /// Shows a line of another kind, if it is time to.
    pub(crate) fn show_text(&mut self, text: std::fmt::Arguments<'_>) {
        if !self.quiet && self.last_shown.elapsed() >= if self.terminal { TERMINAL_INTERVAL } else { PLAIN_INTERVAL } {
            self.write(text);
        }
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        let mut stderr = std::io::stderr().lock();
        // A progress line that can't be written is no reason to end a measurement.
        let _ = if self.terminal { write!(stderr, "\r\x1b[K{text}") } else { writeln!(stderr, "{text}") };
        let _ = stderr.flush();
        self.last_shown = Instant::now();
        self.shown = true;
    }

    /// Clears the line.
    pub(crate) fn end(&mut self) {
        if self.terminal && self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
