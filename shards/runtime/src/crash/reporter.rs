//! `ringpost crash-report`: gives names to the addresses that the crash handler found.
//!
//! The input is the handler's own report. Lines `module START END BASE PATH` say where files were loaded, `stack ...` begins a
//! stack, lines that begin with `0x` are its addresses, `...` stands for those left out; everything else is passed over. The program itself is this one.

use crate::stack::{Module, Symbols};
use std::io::{self, Read, Write};

/// Bytes of the input that are read: what a crash handler writes is far below.
const INPUT_MAX: u64 = 4 << 20;

/// Reads raw addresses, and writes the stacks with names.
///
/// # Errors
/// Those of reading and writing.
pub fn report(input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    input.take(INPUT_MAX).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let mut symbols = Symbols::new(text.lines().filter_map(module).collect());
    let mut first = false;
    for line in text.lines() {
        if line.starts_with("stack ") {
            writeln!(output, "\n{line}, with names")?;
            first = true;
        } else if let Some(address) = hexadecimal(line.trim_start()) {
            let functions = symbols.functions(address, first);
            functions.iter().try_for_each(|function| writeln!(output, "  {function}"))?;
            first = false;
        } else if line.starts_with("...") {
            writeln!(output, "  {line}")?;
        }
    }
    output.flush()
}

fn module(line: &str) -> Option<Module> {
    let mut words = line.strip_prefix("module ")?.splitn(4, ' ');
    let (start, end) = (hexadecimal(words.next()?)?, hexadecimal(words.next()?)?);
    let (base, path) = (hexadecimal(words.next()?)?, words.next()?.to_owned());
    Some(Module { base, start, end, path })
}

fn hexadecimal(text: &str) -> Option<usize> {
    usize::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
