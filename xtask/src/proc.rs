//! What the kernel says of processes: CPU time, family, memory; and files counted.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// The unit of times in `/proc/PID/stat`, as ticks a second: fixed at 100 for user space on every Linux port we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time of a process, all its threads included, in milliseconds.
#[derive(Debug, PartialEq)]
pub(crate) struct Times {
    /// Its name, at most 15 bytes.
    pub(crate) name: String,
    /// Its parent's id.
    pub(crate) parent: u32,
    /// Its own.
    pub(crate) own_ms: f64,
    /// That of its children that have ended and were waited for.
    pub(crate) children_ms: f64,
}

/// The CPU times of a process; none when it is gone.
pub(crate) fn times(id: u32) -> Option<Times> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// The resident memory of a process in KiB; none when it is gone.
pub(crate) fn rss_kib(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// True when a process with this id is there and hasn't ended; one that nobody has waited for yet has.
pub(crate) fn is_alive(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A process and all its descendants.
pub(crate) fn family(id: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> = ids.filter_map(|id| Some((id, times(id)?.parent))).collect();
    let mut family = vec![id];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(parents.iter().filter(|(_, other)| *other == parent).map(|(child, _)| *child));
        at += 1;
    }
    family
}

/// Files at any depth below a folder.
pub(crate) fn count_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count_files(&entry.path()),
            _ => 1,
        })
        .sum()
}

/// Moves what is in a folder out of it, to one beside it, so that the next run begins with nothing. It is not removed: ext4
/// passes over each inode freed in the last minutes when it looks for a new one, which would make the next run dear.
pub(crate) fn empty(folder: &Path) -> std::io::Result<()> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let aside = folder.with_extension(format!("aside-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&aside)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        std::fs::rename(entry.path(), aside.join(entry.file_name()))?;
    }
    Ok(())
}

/// Fields by proc(5): the name in brackets may hold anything, so counting starts after the last one.
fn parse_stat(text: &str) -> Option<Times> {
    let (start, rest) = text.rsplit_once(')')?;
    let name = start.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ms = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? * 1000.0 / TICKS_PER_SECOND);
    Some(Times {
        name,
        parent: fields.get(1)?.parse().ok()?,
        own_ms: ms(11)? + ms(12)?,
        children_ms: ms(13)? + ms(14)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stat_file() {
        let text = "42 (a) b) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 20 10 20 0 1 0 99 0 0";
        let expected = Times { name: "a) b".to_owned(), parent: 7, own_ms: 2000.0, children_ms: 300.0 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn this_process_is_resident() {
        assert!(rss_kib(std::process::id()).is_some_and(|kib| kib > 100));
        assert_eq!(rss_kib(u32::MAX), None);
    }

    #[test]
    fn a_family_has_its_children() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().expect("sleep starts");
        assert!(family(std::process::id()).contains(&child.id()));
        child.kill().expect("is killed");
        child.wait().expect("has ended");
    }
}
