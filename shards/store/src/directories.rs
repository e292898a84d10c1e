//! The directories of the logs below a spool, and whose is which.
//!
//! ```text
//! STATE/spool/shard-0000/            a log
//!             shard-0000/heir        the directory of the log that takes this one over, or has begun to
//!             retired-shard-0001/    a log that was taken over, about to be removed
//! ```
//!
//! A shard goes on with a log that is there, whatever its number; what is left is taken over. A log that is being taken over
//! is in two places at once: some of its messages stand in the other log already, and one shard must decide where each is
//! delivered from. So a directory names its **heir** before the first of its messages moves, and whoever plans anew keeps
//! directories that such names connect in the hands of one shard: it goes on with the last heir, or takes all of them over.
//!
//! Where the heir of several directories changes, those nearest to the former one are told first. Wherever that is cut off,
//! what was connected still is.

use crate::disk::Disk;
use crate::error::{StoreError, file_error, io_error};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// What a directory's name begins with whose messages are taken over and which is about to be removed.
const RETIRED: &str = "retired-";

/// The file that names the heir of a directory.
pub(crate) const HEIR: &str = "heir";

/// Directories that a shard takes over.
pub type Orphans = Vec<PathBuf>;

/// The directory of each of `shards` shards under `spool`, and, for each, the directories it is to take over because an
/// earlier run had more shards, or ended while it took them over itself. Shards go on with directories that are there, in the
/// order of their numbers; those that are missing are made, with the lowest numbers that are free. For a process that has the
/// spool to itself.
pub fn shard_directories(spool: &Path, shards: usize) -> Result<Vec<(PathBuf, Orphans)>, StoreError> {
    remove_retired(spool)?;
    let mut families = families(spool)?.into_iter();
    let mut plan: Vec<(PathBuf, Orphans)> = Vec::with_capacity(shards);
    for Family { eldest, others, .. } in families.by_ref().take(shards) {
        make_bodies(&eldest)?;
        // Where it names an heir that is no more, another directory of that name would be taken for it.
        disown(&eldest)?;
        plan.push((eldest, others));
    }
    let missing = shards - plan.len();
    plan.extend(fresh_directories(spool, missing)?.into_iter().map(|fresh| (fresh, Orphans::new())));
    for family in families {
        plan[family.number % shards].1.extend(family.all());
    }
    Ok(plan)
}

/// Makes directories for so many shards, with the lowest numbers that are free: for a process that takes over from one whose
/// shards still use theirs.
pub fn fresh_directories(spool: &Path, shards: usize) -> Result<Vec<PathBuf>, StoreError> {
    let path = |number| spool.join(shard_name(number));
    let is_free = |path: &PathBuf| !path.exists() && retired(path).is_some_and(|retired| !retired.exists());
    let fresh: Vec<PathBuf> = (0..).map(path).filter(is_free).take(shards).collect();
    fresh.iter().try_for_each(|directory| make_bodies(directory))?;
    sync(spool)?;
    Ok(fresh)
}

/// What the shards of a process with these directories of its own are to take over of a spool that nobody else uses any more:
/// for each of `own`, groups of directories, one group to be taken over after the other.
pub fn orphan_groups(spool: &Path, own: &[PathBuf]) -> Result<Vec<Vec<Orphans>>, StoreError> {
    remove_retired(spool)?;
    let mut plan = vec![Vec::new(); own.len()];
    for family in families(spool)? {
        match own.iter().position(|own| own.file_name() == family.eldest.file_name()) {
            Some(_) if family.others.is_empty() => {}
            Some(shard) => plan[shard].push(family.others),
            None => plan[family.number % own.len()].push(family.all()),
        }
    }
    Ok(plan)
}

/// Names the heir of directories, durably: before the first message of any of them moves.
pub(crate) async fn claim(disk: &Disk, heir: &Path, orphans: &[&Path]) -> Result<(), StoreError> {
    let name = heir.file_name().ok_or_else(|| file_error(heir, "has no name"))?;
    for orphan in orphans {
        disk.write_note(&orphan.join(HEIR), name.as_encoded_bytes()).await?;
    }
    Ok(())
}

/// The number in the name of a shard's directory.
pub(crate) fn shard_number(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.strip_prefix("shard-")?.parse().ok()
}

/// What a shard's directory is called once it is taken over.
pub(crate) fn retired(directory: &Path) -> Option<PathBuf> {
    let name = directory.file_name()?.to_str()?;
    Some(directory.with_file_name(format!("{RETIRED}{name}")))
}

fn shard_name(number: usize) -> String {
    format!("shard-{number:04}")
}

/// Directories between which messages may have begun to move.
struct Family {
    /// The number of the eldest.
    number: usize,
    /// The heir of all the others.
    eldest: PathBuf,
    /// The others, each behind its heir.
    others: Orphans,
}

impl Family {
    fn all(self) -> Orphans {
        std::iter::once(self.eldest).chain(self.others).collect()
    }
}

/// All directories of logs, in the order of the eldest's numbers.
fn families(spool: &Path) -> Result<Vec<Family>, StoreError> {
    let mut heirs = BTreeMap::new();
    for entry in fs::read_dir(spool).map_err(|error| io_error(spool, error))? {
        let path = entry.map_err(|error| io_error(spool, error))?.path();
        // A name in another form is not from here.
        let number = shard_number(&path).filter(|number| path.ends_with(shard_name(*number)));
        if let Some(number) = number {
            heirs.insert(number, heir_of(&path)?);
        }
    }
    let lines = heirs.keys().map(|number| line_of(&heirs, *number));
    let mut families: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for line in lines {
        if let (Some(own), Some(eldest)) = (line.first(), line.last()) {
            families.entry(*eldest).or_default().push((line.len(), *own));
        }
    }
    let path = |number: usize| spool.join(shard_name(number));
    let family = |(number, mut members): (usize, Vec<(usize, usize)>)| {
        members.sort_unstable();
        let others = members.into_iter().map(|(_, member)| member).filter(|member| *member != number);
        Family { number, eldest: path(number), others: others.map(path).collect() }
    };
    Ok(families.into_iter().map(family).collect())
}

/// A directory, its heir, the heir of that, up to the one that has none. Of directories that are each other's heirs, which
/// only somebody else's hand can have made them, the lowest has none.
fn line_of(heirs: &BTreeMap<usize, Option<usize>>, number: usize) -> Vec<usize> {
    let mut line = vec![number];
    let mut last = number;
    while let Some(heir) = heirs.get(&last).copied().flatten().filter(|heir| heirs.contains_key(heir)) {
        if let Some(begin) = line.iter().position(|known| *known == heir) {
            let lowest = line[begin..].iter().copied().min().unwrap_or(heir);
            let end = line.iter().position(|known| *known == lowest).unwrap_or(begin);
            line.truncate(end + 1);
            break;
        }
        line.push(heir);
        last = heir;
    }
    line
}

fn heir_of(directory: &Path) -> Result<Option<usize>, StoreError> {
    let path = directory.join(HEIR);
    match fs::read_to_string(&path) {
        Ok(name) => Ok(shard_number(Path::new(name.trim()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(&path, error)),
    }
}

fn disown(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(HEIR);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path, error)),
        _ => Ok(()),
    }
}

fn make_bodies(directory: &Path) -> Result<(), StoreError> {
    let body = directory.join("body");
    fs::create_dir_all(&body).map_err(|error| io_error(&body, error))?;
    sync(directory)
}

fn remove_retired(spool: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(spool).map_err(|error| io_error(spool, error))? {
        let path = entry.map_err(|error| io_error(spool, error))?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(RETIRED.as_bytes())) {
            fs::remove_dir_all(&path).map_err(|error| io_error(&path, error))?;
        }
    }
    Ok(())
}

fn sync(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(|error| io_error(directory, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories by their numbers, with their heirs.
    fn spool(directories: &[(usize, Option<usize>)]) -> tempfile::TempDir {
        let spool = tempfile::tempdir().expect("a directory");
        for (number, heir) in directories {
            let directory = spool.path().join(shard_name(*number));
            fs::create_dir(&directory).expect("made");
            if let Some(heir) = heir {
                fs::write(directory.join(HEIR), shard_name(*heir)).expect("written");
            }
        }
        spool
    }

    fn numbers<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Vec<usize> {
        paths.into_iter().map(|path| shard_number(path).expect("a number")).collect()
    }

    /// What a start plans: for each shard its own directory, and behind it what it takes over.
    #[track_caller]
    fn check(directories: &[(usize, Option<usize>)], shards: usize, expected: &[&[usize]]) {
        let spool = spool(directories);
        let plan = shard_directories(spool.path(), shards).expect("planned");
        let found: Vec<Vec<usize>> =
            plan.iter().map(|(own, orphans)| numbers(std::iter::once(own).chain(orphans))).collect();
        assert_eq!(found, expected, "{directories:?} for {shards}");
        assert!(plan.iter().all(|(own, _)| own.join("body").is_dir() && !own.join(HEIR).exists()));
    }

    #[test]
    fn shards_go_on_with_the_logs_that_are_there() {
        check(&[], 2, &[&[0], &[1]]);
        check(&[(0, None), (1, None)], 2, &[&[0], &[1]]);
        check(&[(2, None), (3, None)], 2, &[&[2], &[3]]);
        check(&[(2, None), (3, None)], 3, &[&[2], &[3], &[0]]);
        check(&[(1, None)], 3, &[&[1], &[0], &[2]]);
        check(&[(0, None), (1, None), (2, None), (3, None), (4, None)], 2, &[&[0, 2, 4], &[1, 3]]);
        check(&[(4, None), (5, None), (6, None)], 1, &[&[4, 5, 6]]);
    }

    #[test]
    fn logs_that_may_share_messages_stay_in_one_hand() {
        // A start with fewer shards was cut off, and the next has more again.
        check(&[(0, None), (1, None), (2, Some(0)), (3, Some(1))], 4, &[&[0, 2], &[1, 3], &[4], &[5]]);
        // One that took over from another process was cut off.
        check(&[(0, Some(2)), (1, Some(3)), (2, None), (3, None)], 2, &[&[2, 0], &[3, 1]]);
        check(&[(0, Some(2)), (1, Some(3)), (2, None), (3, None)], 1, &[&[2, 0, 3, 1]]);
        // And then its successor too.
        check(&[(0, Some(2)), (2, Some(1)), (1, None)], 1, &[&[1, 2, 0]]);
        check(&[(0, Some(1)), (2, Some(1)), (1, None)], 2, &[&[1, 0, 2], &[3]]);
        check(&[(0, Some(5)), (5, None), (1, None), (2, None)], 2, &[&[1], &[2, 5, 0]]);
    }

    #[test]
    fn an_heir_that_is_no_more_binds_nobody() {
        check(&[(0, Some(7)), (1, None)], 2, &[&[0], &[1]]);
        // Its number is given to another one now.
        check(&[(0, Some(1))], 2, &[&[0], &[1]]);
        // Nobody from here has written these.
        check(&[(0, Some(0)), (1, Some(2)), (2, Some(1))], 2, &[&[0], &[1, 2]]);
        check(&[(3, Some(4)), (4, Some(5)), (5, Some(4))], 1, &[&[4, 3, 5]]);
    }

    #[test]
    fn a_process_beside_another_gets_directories_that_nobody_has() {
        let spool = spool(&[(0, None), (2, None)]);
        fs::create_dir(spool.path().join("retired-shard-0003")).expect("made");
        assert_eq!(numbers(&fresh_directories(spool.path(), 3).expect("made")), [1, 4, 5]);
    }

    #[test]
    fn what_others_have_left_is_taken_over_in_groups() {
        for (directories, own, expected) in [
            (&[(0, None), (1, None), (2, None), (3, None)][..], [2, 3], [vec![vec![0]], vec![vec![1]]]),
            (&[(0, None), (4, None), (2, None), (3, None)], [2, 3], [vec![vec![0], vec![4]], vec![]]),
            (&[(0, Some(1)), (1, None), (2, None), (3, None)], [2, 3], [vec![], vec![vec![1, 0]]]),
            // A second try in the same process.
            (&[(0, Some(3)), (1, Some(2)), (2, None), (3, None)], [2, 3], [vec![vec![1]], vec![vec![0]]]),
        ] {
            let spool = spool(directories);
            fs::create_dir(spool.path().join("retired-shard-0009")).expect("made");
            let own = own.map(|number| spool.path().join(shard_name(number)));
            let groups = orphan_groups(spool.path(), &own).expect("planned");
            let found: Vec<Vec<Vec<usize>>> =
                groups.iter().map(|groups| groups.iter().map(numbers).collect()).collect();
            assert_eq!(found, expected, "{directories:?}");
            assert!(!spool.path().join("retired-shard-0009").exists());
        }
    }
}
