//! The tool as a process, run to its end against a sink.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::sink::Sink;

/// A run of the tool that has ended, and the directory that it ran in.
pub(crate) struct Run {
    pub(crate) dir: TempDir,
    output: Output,
}

impl Run {
    pub(crate) fn new(sink: &Sink, options: &[&str]) -> Self {
        Self::of(sink, "run", options)
    }

    pub(crate) fn of(sink: &Sink, command: &str, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut run = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
        run.current_dir(dir.path()).arg(command).args(["--to", &sink.address.to_string(), "--quiet", "--json", "."]);
        if command == "run" {
            run.args(["--acked", "acked", "--timeout", "5s"]);
        }
        let output = run.args(options).output().expect("runs");
        Self { dir, output }
    }

    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(self.output.status.code(), Some(code), "{}{}", text(&self.output.stdout), text(&self.output.stderr));
        self
    }

    pub(crate) fn acked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("acked")).expect("reads");
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn record(&self) -> Value {
        let mut entries = fs::read_dir(self.dir.path()).expect("lists").flatten().map(|entry| entry.path());
        let path = entries.find(|path| path.extension().is_some_and(|end| end == "json")).expect("has a record");
        serde_json::from_slice(&fs::read(path).expect("reads")).expect("is JSON")
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.record()["result"]["counts"][name].as_u64().expect("is a count")
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }
}
