//! Reads the tables of a file against their sections and keeps every fault it meets.
//!
//! A section file asks a [`Table`] for its keys one by one, with the default of each, and gets a [`Setting`] back
//! whatever the file holds: a fault is noted, and the default takes the place of what could not be read. So one
//! reading finds every fault. A [`Setting`] remembers where it was written, so that a check of several keys against
//! each other can point at one of them, and whether it was at fault, so that no fault is reported twice.
//!
//! It reads tables with headers, dotted keys, inline tables and arrays of either alike. It does not know any key.

use crate::{
    config::Share,
    credentials::Credentials,
    errors::Fault,
    keys::{Choice, Key, Section, join},
    secrets::Secret,
    suggest, value,
};
use ringpost_base::{ByteCount, Span};
use std::{cell::RefCell, collections::BTreeSet, ops::Range};
use toml_edit::{Item, TableLike, Value};

/// Why a value was not taken.
pub(crate) struct Trouble {
    reason: String,
    suggestion: Option<String>,
    /// The part of the value at fault, in bytes from the start of the value's text. None: all of it.
    part: Option<Range<usize>>,
}

impl Trouble {
    /// The same, with a guess at what was meant.
    pub(crate) fn suggest(self, suggestion: Option<String>) -> Self {
        Self { suggestion, ..self }
    }

    /// The same, less what of the value may be a secret: faults of a reload go to the log and to who asked for it.
    fn hide(self, value: &str, secret: Secret) -> Self {
        let shown = secret.hide(value);
        if shown == value {
            return self;
        }
        let reason = self.reason.replace(&format!("{value:?}"), &format!("{shown:?}"));
        Self { reason, suggestion: self.suggestion.map(|suggestion| secret.hide(&suggestion)), ..self }
    }

    /// The same, pointing at a part of the value.
    pub(crate) fn at(self, part: Option<Range<usize>>) -> Self {
        Self { part, ..self }
    }
}

impl<S: Into<String>> From<S> for Trouble {
    fn from(reason: S) -> Self {
        Self { reason: reason.into(), suggestion: None, part: None }
    }
}

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The file does not have it.
    Default,
    /// From these bytes.
    Written(Range<usize>),
    /// The file has it wrong, or misses it where it is required; this is reported.
    Faulty,
}

/// A value, with where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) key: String,
    pub(crate) place: Place,
}

/// The key and place of a setting, for checks of several settings of different types.
pub(crate) type Spot<'s> = (&'s str, &'s Place);

impl<T> Setting<T> {
    pub(crate) fn spot(&self) -> Spot<'_> {
        (&self.key, &self.place)
    }

    pub(crate) fn is_written(&self) -> bool {
        matches!(self.place, Place::Written(_))
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Setting<U> {
        Setting { value: change(self.value), key: self.key, place: self.place }
    }
}

/// The text of a file, and what was found wrong with it so far.
pub(crate) struct Reader<'t> {
    text: &'t str,
    credentials: &'t Credentials,
    faults: RefCell<Vec<Fault>>,
    /// The path of every key that was asked for; a test compares it with the reference.
    asked: RefCell<BTreeSet<String>>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(text: &'t str, credentials: &'t Credentials) -> Self {
        Self { text, credentials, faults: RefCell::default(), asked: RefCell::default() }
    }

    /// The file itself as a table.
    pub(crate) fn root<'r>(&'r self, items: &'r dyn TableLike, section: &'static Section) -> Table<'r> {
        Table::open(self, String::new(), 0..0, Some(items), section)
    }

    /// The faults, and the keys that were asked for.
    pub(crate) fn finish(self) -> (Vec<Fault>, BTreeSet<String>) {
        (self.faults.into_inner(), self.asked.into_inner())
    }

    /// Notes a fault.
    pub(crate) fn fault(&self, key: &str, place: Range<usize>, trouble: impl Into<Trouble>) {
        let Trouble { reason, suggestion, part } = trouble.into();
        let place = part.map_or(place.clone(), |part| place.start + part.start..place.start + part.end);
        self.faults.borrow_mut().push(Fault { place, key: key.to_owned(), reason, suggestion });
    }

    /// Notes a fault of several settings together, at the first of them that the file has, unless the rule holds or
    /// one of them is at fault already.
    pub(crate) fn require(&self, holds: bool, spots: &[Spot<'_>], reason: impl FnOnce() -> String) {
        if holds || spots.iter().any(|(_, place)| **place == Place::Faulty) {
            return;
        }
        let written = spots.iter().find_map(|(key, place)| match place {
            Place::Written(place) => Some((key, place)),
            _ => None,
        });
        if let Some((key, place)) = written {
            self.fault(key, place.clone(), reason());
        }
    }

    /// Notes a fault at each setting whose value an earlier one has. The reason is given the value and the earlier key.
    pub(crate) fn distinct<T: PartialEq>(&self, settings: &[Setting<T>], reason: impl Fn(&T, &str) -> String) {
        for (n, setting) in settings.iter().enumerate().filter(|(_, setting)| setting.is_written()) {
            let earlier = settings[..n].iter().find(|other| other.is_written() && other.value == setting.value);
            if let Some(earlier) = earlier {
                self.require(false, &[setting.spot()], || reason(&setting.value, &earlier.key));
            }
        }
    }
}

/// A value of the file, of whatever type.
pub(crate) struct Entry<'r> {
    pub(crate) key: String,
    pub(crate) place: Range<usize>,
    /// None: a table or array of tables.
    pub(crate) value: Option<&'r Value>,
    /// The text of the value as written.
    pub(crate) raw: &'r str,
    found: &'static str,
}

impl<'r> Entry<'r> {
    pub(crate) fn text(&self) -> Option<&'r str> {
        self.value.and_then(Value::as_str)
    }

    pub(crate) fn integer(&self) -> Option<i64> {
        self.value.and_then(Value::as_integer)
    }

    /// A number with a fraction, or without.
    pub(crate) fn number(&self) -> Option<f64> {
        self.value.and_then(|value| value.as_float().or_else(|| value.as_integer().map(|number| number as f64)))
    }

    pub(crate) fn flag(&self) -> Option<bool> {
        self.value.and_then(Value::as_bool)
    }

    /// The trouble of a value of another type than wanted.
    pub(crate) fn wants(&self, wanted: &str) -> Trouble {
        let article = if self.found.starts_with(['a', 'i']) { "an" } else { "a" };
        format!("found {article} {}, wants {wanted}", self.found).into()
    }
}

/// A table of the file, or the lack of one.
pub(crate) struct Table<'r> {
    pub(crate) reader: &'r Reader<'r>,
    pub(crate) path: String,
    /// What to point at when something is missing.
    pub(crate) place: Range<usize>,
    items: Option<&'r dyn TableLike>,
    section: &'static Section,
}

impl<'r> Table<'r> {
    fn open(
        reader: &'r Reader<'r>,
        path: String,
        place: Range<usize>,
        items: Option<&'r dyn TableLike>,
        section: &'static Section,
    ) -> Self {
        let table = Self { reader, path, place, items, section };
        for (name, item) in items.into_iter().flat_map(TableLike::iter) {
            if section.key(name).is_none() {
                let suggestion = suggest::key(name, section);
                let known = match &suggestion {
                    Some(_) => String::new(),
                    None => format!("; {} takes {}", section.header, key_names(section).join(", ")),
                };
                let place = table.key_place(name).or(item.span()).unwrap_or_default();
                let trouble = Trouble::from(format!("unknown key{known}")).suggest(suggestion);
                reader.fault(&join(&table.path, &shown(name)), place, trouble);
            }
        }
        table
    }

    fn key_place(&self, name: &str) -> Option<Range<usize>> {
        self.items.and_then(|items| items.key(name)).and_then(toml_edit::Key::span)
    }

    /// The row of a key, noting that it was asked for.
    fn row(&self, name: &'static str) -> &'static Key {
        self.reader.asked.borrow_mut().insert(self.section.path_of(name));
        self.section.key(name).expect("a test reads every key that a section file asks for")
    }

    fn item(&self, name: &str) -> Option<&'r Item> {
        self.items.and_then(|items| items.get(name)).filter(|item| !item.is_none())
    }

    fn entry(&self, name: &str, item: &'r Item) -> Entry<'r> {
        let place = item.span().or_else(|| self.key_place(name)).unwrap_or_default();
        let raw = self.reader.text.get(place.clone()).unwrap_or_default();
        Entry { key: join(&self.path, name), place, value: item.as_value(), raw, found: item.type_name() }
    }

    /// Any key: `read` makes a value of what the file has, or says what is wrong with it.
    pub(crate) fn setting<T>(
        &self,
        name: &'static str,
        default: T,
        read: impl FnOnce(&Entry<'r>, &'static Key) -> Result<T, Trouble>,
    ) -> Setting<T> {
        let (key, row) = (join(&self.path, name), self.row(name));
        let Some(item) = self.item(name) else {
            let place = if row.default.is_none() {
                self.reader.fault(&key, self.place.clone(), format!("missing, wants {}", row.kind.wants()));
                Place::Faulty
            } else {
                Place::Default
            };
            return Setting { value: default, key, place };
        };
        let entry = self.entry(name, item);
        match read(&entry, row) {
            Ok(value) => Setting { value, key, place: Place::Written(entry.place) },
            Err(trouble) => {
                let trouble = trouble.hide(entry.text().unwrap_or_default(), row.secret);
                self.reader.fault(&key, entry.place, trouble);
                Setting { value: default, key, place: Place::Faulty }
            }
        }
    }

    /// A string that passes a check.
    pub(crate) fn text(
        &self,
        name: &'static str,
        default: &str,
        check: impl FnOnce(&str) -> Result<(), Trouble>,
    ) -> Setting<String> {
        self.setting(name, default.to_owned(), |entry, row| {
            let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
            check(text).map(|()| text.to_owned())
        })
    }

    /// A file that is read, perhaps one that the service manager hands over.
    pub(crate) fn file(&self, name: &'static str) -> Setting<String> {
        self.setting(name, String::new(), |entry, row| {
            let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
            self.reader.credentials.resolve(text)
        })
    }

    /// The same, or none where it is empty.
    pub(crate) fn optional_file(&self, name: &'static str) -> Setting<Option<String>> {
        let file = self.setting(name, String::new(), |entry, row| {
            let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
            if text.is_empty() { Ok(String::new()) } else { self.reader.credentials.resolve(text) }
        });
        file.map(|file| (!file.is_empty()).then_some(file))
    }

    /// A whole number in the range of its row.
    pub(crate) fn count(&self, name: &'static str, default: usize) -> Setting<usize> {
        self.setting(name, default, value::count)
    }

    /// A whole number in the range of its row that fits 32 bits.
    pub(crate) fn count_u32(&self, name: &'static str, default: u32) -> Setting<u32> {
        self.count(name, default as usize).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// A limit in the range of its row, where 0 is none.
    pub(crate) fn limit(&self, name: &'static str, default: Option<u32>) -> Setting<Option<u32>> {
        self.count_u32(name, default.unwrap_or(0)).map(|number| (number > 0).then_some(number))
    }

    /// A whole number in the range of its row, below zero too.
    pub(crate) fn integer(&self, name: &'static str, default: i32) -> Setting<i32> {
        let saturated = |number: i64| i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX });
        self.setting(name, i64::from(default), value::integer).map(saturated)
    }

    /// A number from 0 to 1.
    pub(crate) fn share(&self, name: &'static str, default: Share) -> Setting<Share> {
        self.setting(name, default, value::share)
    }

    /// Yes or no.
    pub(crate) fn flag(&self, name: &'static str, default: bool) -> Setting<bool> {
        self.setting(name, default, value::flag)
    }

    /// A number of bytes in the range of its row.
    pub(crate) fn size(&self, name: &'static str, default: ByteCount) -> Setting<ByteCount> {
        self.setting(name, default, value::size)
    }

    /// A duration in the range of its row.
    pub(crate) fn time(&self, name: &'static str, default: Span) -> Setting<Span> {
        self.setting(name, default, value::time)
    }

    /// One word of a closed set.
    pub(crate) fn choice<T: Choice>(&self, name: &'static str, default: T) -> Setting<T> {
        self.setting(name, default, |entry, row| {
            let word = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
            value::choice(word)
        })
    }

    /// A string that passes a check, or none where it is empty.
    pub(crate) fn optional(
        &self,
        name: &'static str,
        check: impl FnOnce(&str) -> Result<(), Trouble>,
    ) -> Setting<Option<String>> {
        let text = self.text(name, "", |text| if text.is_empty() { Ok(()) } else { check(text) });
        text.map(|text| (!text.is_empty()).then_some(text))
    }

    /// A list. Elements at fault are left out of it, and make the list faulty.
    pub(crate) fn list<T>(
        &self,
        name: &'static str,
        read: impl FnMut(&Entry<'r>) -> Result<T, Trouble>,
    ) -> Setting<Vec<Setting<T>>> {
        let mut faults = false;
        let mut list = self.setting(name, Vec::new(), |entry, row| {
            let list = elements(self.reader, entry, read).ok_or_else(|| entry.wants(&row.kind.wants()))?;
            faults = list.iter().any(Option::is_none);
            Ok(list.into_iter().flatten().collect())
        });
        if faults {
            list.place = Place::Faulty;
        }
        list
    }

    /// A text, or a list of them. Elements at fault are left out, and make the list faulty.
    pub(crate) fn text_or_list(
        &self,
        name: &'static str,
        check: impl Fn(&Entry<'r>) -> Result<(), Trouble>,
    ) -> Setting<Vec<Setting<String>>> {
        let row = self.row(name);
        let read = |entry: &Entry<'r>| {
            let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
            check(entry).map(|()| text.to_owned())
        };
        if self.item(name).is_none_or(|item| item.as_array().is_some()) {
            return self.list(name, read);
        }
        let one = self.setting(name, String::new(), |entry, _| read(entry));
        let list = if one.is_written() { vec![one.clone()] } else { Vec::new() };
        Setting { value: list, key: one.key, place: one.place }
    }

    /// Texts under names of the writer's choice, in the order of the file. Those at fault are left out.
    pub(crate) fn pairs(
        &self,
        name: &'static str,
        check_name: impl Fn(&str) -> Result<(), Trouble>,
        check_value: impl Fn(&str) -> Result<(), Trouble>,
    ) -> Vec<(Setting<String>, String)> {
        let pairs = self.setting(name, Vec::new(), |entry, row| {
            let items = self.item(name).and_then(Item::as_table_like).ok_or_else(|| entry.wants(&row.kind.wants()))?;
            let inner = Table {
                reader: self.reader,
                path: entry.key.clone(),
                place: entry.place.clone(),
                items: Some(items),
                section: self.section,
            };
            Ok(items.iter().filter_map(|(name, item)| inner.pair(name, item, &check_name, &check_value)).collect())
        });
        pairs.value
    }

    fn pair(
        &self,
        name: &str,
        item: &'r Item,
        check_name: impl Fn(&str) -> Result<(), Trouble>,
        check_value: impl Fn(&str) -> Result<(), Trouble>,
    ) -> Option<(Setting<String>, String)> {
        let entry = self.entry(&shown(name), item);
        let place = self.key_place(name).unwrap_or_else(|| entry.place.clone());
        let text = entry.text().ok_or_else(|| entry.wants("a text"));
        let text = text.and_then(|text| check_value(text).map(|()| text.to_owned()));
        let text = text.map_err(|trouble| self.reader.fault(&entry.key, entry.place.clone(), trouble)).ok();
        if let Err(trouble) = check_name(name) {
            self.reader.fault(&entry.key, place, trouble);
            return None;
        }
        Some((Setting { value: name.to_owned(), key: entry.key, place: Place::Written(place) }, text?))
    }

    /// Notes a fault at each key that is there and that only other kinds of the table have.
    pub(crate) fn forbid_other_kinds(&self, kind: &str) {
        for row in self.section.keys.iter().filter(|row| !row.is_of(kind)) {
            if let Some(item) = self.item(row.name) {
                let kinds: Vec<_> = row.of.iter().map(|kind| format!("{kind:?}")).collect();
                let kinds = match kinds.split_last() {
                    Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                    _ => kinds.concat(),
                };
                let entry = self.entry(row.name, item);
                let what = self.section.path;
                self.reader.fault(&entry.key, entry.place, format!("only a {what} of kind {kinds} has it"));
            }
        }
    }

    /// Whether the file has a table as this key.
    pub(crate) fn has_table(&self, name: &str) -> bool {
        self.item(name).is_some_and(Item::is_table_like)
    }

    /// A table within this one. Where the file has none, every key of it has its default.
    pub(crate) fn table(&self, name: &'static str, section: &'static Section) -> Table<'r> {
        let (path, row) = (join(&self.path, name), self.row(name));
        let Some(item) = self.item(name) else {
            return Self::open(self.reader, path, self.place.clone(), None, section);
        };
        let entry = self.entry(name, item);
        if item.as_table_like().is_none() {
            self.reader.fault(&path, entry.place.clone(), entry.wants(&row.kind.wants()));
        }
        Self::open(self.reader, path, entry.place, item.as_table_like(), section)
    }

    /// An array of tables. None in `value` where the file has none; faulty where the file has something else.
    pub(crate) fn tables(&self, name: &'static str, section: &'static Section) -> Setting<Option<Vec<Table<'r>>>> {
        let mut faults = false;
        let open = |n: usize, place: Option<Range<usize>>, items: &'r dyn TableLike| {
            let path = format!("{}[{n}]", join(&self.path, name));
            let place = place.or_else(|| self.key_place(name)).unwrap_or_default();
            Self::open(self.reader, path, place, Some(items), section)
        };
        let mut tables = self.setting(name, None, |entry, row| {
            if let Some(array) = self.item(name).and_then(Item::as_array_of_tables) {
                return Ok(Some(array.iter().enumerate().map(|(n, table)| open(n, table.span(), table)).collect()));
            }
            let array = entry.value.and_then(Value::as_array).ok_or_else(|| entry.wants(&row.kind.wants()))?;
            let mut tables = Vec::new();
            for (n, value) in array.iter().enumerate() {
                if let Some(table) = value.as_inline_table() {
                    tables.push(open(n, value.span(), table));
                } else {
                    let element = element(self.reader, entry, n, value);
                    self.reader.fault(&element.key, element.place.clone(), element.wants("a table"));
                    faults = true;
                }
            }
            Ok(Some(tables))
        });
        if faults {
            tables.place = Place::Faulty;
        }
        tables
    }
}

/// A key as it would be written: a file may have any text as a key, and a terminal may not get any text.
fn shown(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if bare { name.to_owned() } else { format!("{name:?}") }
}

fn key_names(section: &Section) -> Vec<&'static str> {
    section.keys.iter().map(|key| key.name).collect()
}

fn element<'r>(reader: &'r Reader<'r>, list: &Entry<'r>, n: usize, value: &'r Value) -> Entry<'r> {
    let place = value.span().unwrap_or_else(|| list.place.clone());
    let raw = reader.text.get(place.clone()).unwrap_or_default();
    Entry { key: format!("{}[{n}]", list.key), place, value: Some(value), raw, found: value.type_name() }
}

/// The elements of a list, None for each at fault; or None where the value is no list.
pub(crate) fn elements<'r, T>(
    reader: &'r Reader<'r>,
    list: &Entry<'r>,
    mut read: impl FnMut(&Entry<'r>) -> Result<T, Trouble>,
) -> Option<Vec<Option<Setting<T>>>> {
    let array = list.value?.as_array()?;
    let settings = array.iter().enumerate().map(|(n, value)| {
        let entry = element(reader, list, n, value);
        match read(&entry) {
            Ok(value) => Some(Setting { value, key: entry.key, place: Place::Written(entry.place) }),
            Err(trouble) => {
                reader.fault(&entry.key, entry.place, trouble);
                None
            }
        }
    });
    Some(settings.collect())
}
