//! Reads a recipients file, and says everything that is wrong with it at once.

use super::names::{Names, Pattern};
use super::{ALIAS_DEPTH_MAX, Alias, Directory, LINE_MAX, LINES_MAX, PATTERNS_MAX, Target, folded};
use ringpost_smtp::Mailbox;
use std::collections::{HashMap, hash_map::Entry};
use std::fmt;

/// Faults that are told; a file with more is likely not a recipients file at all.
pub(crate) const FAULTS_MAX: usize = 100;

/// Longest local part in octets (RFC 5321 section 4.5.3.1.1).
const LOCAL_MAX: usize = 64;

/// Something wrong in a recipients file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryFault {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// What is wrong, and perhaps what was meant.
    pub reason: String,
}

impl DirectoryFault {
    pub(crate) fn new(file: &str, line: u32, column: u32, reason: String) -> Self {
        Self { file: file.to_owned(), line, column, reason }
    }
}

impl fmt::Display for DirectoryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.reason)
    }
}

impl std::error::Error for DirectoryFault {}

/// What is wrong, and at which byte of the line.
type Trouble = (usize, String);

impl Directory {
    /// Reads a file's text. Whether the targets of aliases exist is not looked at here, since that depends on the domain.
    pub fn parse(file: &str, text: &str) -> Result<Directory, Vec<DirectoryFault>> {
        let mut reader = Reader { file, faults: Vec::new(), names: Vec::new(), directory: Directory::default() };
        reader.directory.file = file.into();
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (at, line) in text.lines().enumerate() {
            let number = at as u32 + 1;
            if at >= LINES_MAX {
                reader.fault(number, 1, format!("the file has more than {LINES_MAX} lines"));
                break;
            }
            if let Err((byte, reason)) = reader.line(number, line) {
                let column = line[..line.floor_char_boundary(byte)].chars().count() as u32 + 1;
                reader.fault(number, column, reason);
            }
            if reader.faults.len() > FAULTS_MAX {
                break;
            }
        }
        reader.finish()
    }
}

struct Reader<'a> {
    file: &'a str,
    faults: Vec<DirectoryFault>,
    names: Vec<(Box<str>, u32)>,
    directory: Directory,
}

impl Reader<'_> {
    fn fault(&mut self, line: u32, column: u32, reason: String) {
        self.faults.push(DirectoryFault::new(self.file, line, column, reason));
    }

    fn line(&mut self, number: u32, line: &str) -> Result<(), Trouble> {
        if line.len() > LINE_MAX {
            return Err((LINE_MAX, format!("the line is longer than {LINE_MAX} octets")));
        }
        let mut words = Words { line, at: 0 };
        words.blanks();
        if words.is_over() {
            return Ok(());
        }
        let start = words.at;
        let name = words.word(":,")?;
        words.blanks();
        if words.takes(':') {
            check_name(name, start)?;
            let column = line[..start].chars().count() as u32 + 1;
            let targets = targets(&mut words, number)?;
            return self.alias(name, Alias { line: number, column, targets }).map_err(|reason| (start, reason));
        }
        if !words.is_over() {
            return Err((words.at, beyond(name, &words)));
        }
        self.name(name, start, number)
    }

    fn alias(&mut self, name: &str, alias: Alias) -> Result<(), String> {
        if is_pattern(name) {
            return Err(format!("the alias {name:?} has a \"*\"; an alias is one name"));
        }
        match self.directory.aliases.entry(folded(name).into()) {
            Entry::Occupied(there) => Err(format!("the alias {name:?} is there already, in line {}", there.get().line)),
            Entry::Vacant(place) => {
                place.insert(alias);
                Ok(())
            }
        }
    }

    fn name(&mut self, name: &str, start: usize, line: u32) -> Result<(), Trouble> {
        if name == "*" {
            self.directory.everybody = true;
            return Ok(());
        }
        check_name(name, start)?;
        if !is_pattern(name) {
            self.names.push((folded(name).into(), line));
            return Ok(());
        }
        if self.directory.patterns.len() >= PATTERNS_MAX {
            return Err((start, format!("there are {PATTERNS_MAX} patterns before it, more are too many")));
        }
        let pattern = Pattern::new(&folded(name));
        if !self.directory.patterns.contains(&pattern) {
            self.directory.patterns.push(pattern);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Directory, Vec<DirectoryFault>> {
        let (file, faults) = (self.file, &mut self.faults);
        let names = std::mem::take(&mut self.names);
        // Names are compared with the aliases before the numbers of their lines are gone.
        for (name, line) in names.iter().filter(|_| !self.directory.aliases.is_empty()) {
            if let Some(alias) = self.directory.aliases.get(name) {
                let reason = format!("{name:?} is an alias too, in line {}; it can't be both", alias.line);
                faults.push(DirectoryFault::new(file, *line, 1, reason));
            }
        }
        self.directory.names = Names::new(names, |first, second| {
            faults.push(DirectoryFault::new(file, second, 1, format!("this name is there already, in line {first}")));
        });
        check_depth(&self.directory, faults);
        if faults.is_empty() {
            return Ok(self.directory);
        }
        faults.sort();
        cut(faults);
        Err(self.faults)
    }
}

/// Keeps the first faults, and says that there are more.
pub(crate) fn cut(faults: &mut Vec<DirectoryFault>) {
    if faults.len() > FAULTS_MAX {
        faults.truncate(FAULTS_MAX);
        if let Some(last) = faults.last_mut() {
            last.reason.push_str(" (and more, which are not shown)");
        }
    }
}

/// The rest of a line.
struct Words<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    fn rest(&self) -> &'a str {
        &self.line[self.at..]
    }

    fn blanks(&mut self) {
        self.at = self.line.len() - self.rest().trim_start_matches([' ', '\t']).len();
    }

    /// Whether nothing is left but a comment. To be asked at the start of the line or after blanks.
    fn is_over(&self) -> bool {
        self.rest().is_empty() || self.rest().starts_with('#')
    }

    fn takes(&mut self, c: char) -> bool {
        let there = self.rest().starts_with(c);
        self.at += if there { c.len_utf8() } else { 0 };
        there
    }

    /// What stands here up to a blank or one of the `ends`; a quoted string with what follows it.
    fn word(&mut self, ends: &str) -> Result<&'a str, Trouble> {
        let start = self.at;
        let (mut quoted, mut escaped) = (false, false);
        for (at, c) in self.rest().char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                c if !quoted && (c == ' ' || c == '\t' || ends.contains(c)) => {
                    self.at = start + at;
                    return Ok(&self.line[start..self.at]);
                }
                _ => {}
            }
        }
        if quoted {
            return Err((start, "the quotes are not closed".to_owned()));
        }
        self.at = self.line.len();
        Ok(&self.line[start..])
    }
}

fn targets(words: &mut Words<'_>, line: u32) -> Result<Box<[Target]>, Trouble> {
    let mut targets = Vec::new();
    loop {
        words.blanks();
        let start = words.at;
        if words.is_over() {
            return Err((start, "an address is missing here".to_owned()));
        }
        let word = words.word(",")?;
        let column = words.line[..start].chars().count() as u32 + 1;
        targets.push(target(word, line, column).map_err(|reason| (start, reason))?);
        words.blanks();
        if words.is_over() {
            return Ok(targets.into());
        }
        if !words.takes(',') {
            return Err((words.at, format!("a \",\" is missing between {word:?} and this")));
        }
    }
}

fn target(word: &str, line: u32, column: u32) -> Result<Target, String> {
    if let Ok(mailbox) = Mailbox::parse(word) {
        check_length(mailbox.local())?;
        let (local, domain) = (mailbox.local(), mailbox.domain().to_ascii_lowercase());
        let at = u16::try_from(local.len()).ok();
        return Ok(Target { text: format!("{local}@{domain}").into(), at, line, column });
    }
    if word.is_empty() {
        return Err("an address is missing here".to_owned());
    }
    check_local(word).map_err(|_| format!("{word:?} is neither a local part nor an address"))?;
    if is_pattern(word) {
        return Err(format!("the target {word:?} has a \"*\"; mail goes to one name"));
    }
    check_length(word)?;
    Ok(Target { text: word.into(), at: None, line, column })
}

fn check_name(name: &str, start: usize) -> Result<(), Trouble> {
    if let Ok(mailbox) = Mailbox::parse(name) {
        let guess = mailbox.local();
        let reason = "has an \"@\"; only what stands before it belongs here";
        return Err((start, format!("{name:?} is not a local part: it {reason}; did you mean {guess:?}?")));
    }
    check_local(name).map_err(|_| (start, format!("{name:?} is not a local part")))?;
    check_length(name).map_err(|reason| (start, reason))
}

fn check_local(local: &str) -> Result<(), ()> {
    Mailbox::parse(&format!("{local}@x")).map(|_| ()).map_err(|_| ())
}

fn check_length(local: &str) -> Result<(), String> {
    let length = local.len();
    if length > LOCAL_MAX {
        Err(format!("{length} octets are too long: no address has more than {LOCAL_MAX}"))
    } else {
        Ok(())
    }
}

fn is_pattern(name: &str) -> bool {
    !name.starts_with('"') && name.contains('*')
}

/// What to say where more follows a name.
fn beyond(name: &str, words: &Words<'_>) -> String {
    let rest = words.rest();
    let guess = rest.strip_prefix('=').map(|targets| format!("{name}: {}", targets.trim()));
    let guess = guess.map(|guess| format!("; did you mean {guess:?}?"));
    let guess = guess.unwrap_or_else(|| "; an alias has a \":\" behind its name".to_owned());
    format!("more than one name in a line{guess}")
}

/// Finds aliases that lead to themselves, and those that are too deep. Those whose targets are all done are taken off, again
/// and again; what is left leads into a loop.
fn check_depth(directory: &Directory, faults: &mut Vec<DirectoryFault>) {
    let aliases = &directory.aliases;
    let inner = |alias: &Alias| -> Vec<Box<str>> {
        let local = alias.targets.iter().filter(|target| target.at.is_none()).map(|target| folded(target.local()));
        local.filter(|name| aliases.contains_key(&**name)).map(Box::from).collect()
    };
    let mut waiting: HashMap<&str, usize> = HashMap::new();
    let mut users: HashMap<Box<str>, Vec<&str>> = HashMap::new();
    let mut done: Vec<(&str, usize)> = Vec::new();
    for (name, alias) in aliases {
        let inner = inner(alias);
        match inner.len() {
            0 => done.push((name, 1)),
            n => drop(waiting.insert(name, n)),
        }
        inner.into_iter().for_each(|target| users.entry(target).or_default().push(name));
    }
    let mut depths: HashMap<&str, usize> = HashMap::new();
    while let Some((name, depth)) = done.pop() {
        if depth == ALIAS_DEPTH_MAX + 1 {
            let reason = format!("this alias leads to a mailbox by way of more than {ALIAS_DEPTH_MAX} aliases");
            faults.push(directory.fault_of_alias(name, reason));
        }
        for user in users.get(name).into_iter().flatten().copied() {
            let deepest = depths.entry(user).or_insert(0);
            *deepest = (*deepest).max(depth + 1);
            if let Some(left) = waiting.get_mut(user) {
                *left -= 1;
                if *left == 0 {
                    waiting.remove(user);
                    done.push((user, *deepest));
                }
            }
        }
    }
    let loops = loops(&waiting, |name| aliases.get(name).map(&inner).unwrap_or_default());
    for (name, way) in loops {
        faults.push(directory.fault_of_alias(&name, format!("this alias leads to itself: {way}")));
    }
}

/// The loops among these names, each once: the name it is told at, and the way round.
fn loops(left: &HashMap<&str, usize>, inner: impl Fn(&str) -> Vec<Box<str>>) -> Vec<(Box<str>, String)> {
    let mut found = Vec::new();
    let mut seen: HashMap<Box<str>, usize> = HashMap::new();
    let mut names: Vec<&str> = left.keys().copied().collect();
    names.sort_unstable();
    for (round, start) in names.into_iter().enumerate() {
        let mut way: Vec<Box<str>> = Vec::new();
        let mut here: Box<str> = start.into();
        // Each of them has a target among them, so the way ends in one that was seen.
        while !seen.contains_key(&here) {
            seen.insert(here.clone(), round);
            way.push(here.clone());
            match inner(&here).into_iter().find(|name| left.contains_key(&**name)) {
                Some(next) => here = next,
                None => break,
            }
        }
        if seen.get(&here) == Some(&round)
            && let Some(entry) = way.iter().position(|name| *name == here)
        {
            let round_trip: Vec<&str> = way[entry..].iter().chain([&here]).map(|name| &**name).collect();
            let round_trip = round_trip.join(" -> ");
            found.push((here, round_trip));
        }
    }
    found
}
