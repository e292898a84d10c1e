//! Reading the file again: what of a new config a running server can take on, and what it can't.
//!
//! A key says in its row whether a change of it takes effect at once or at the next start; [`Fixed`] holds the same
//! as a type: what the server was built with, its sockets, cores and logs. Configs are compared in the form that they
//! are rendered in, so a new key takes part by its row alone.

use crate::{
    config::{Admin, Config, CoreUse, Listener, ListenerKind},
    errors::Errors,
    keys::{Change, Key, Kind, join},
    reference::SECTIONS,
    secrets::Secret,
};
use ringpost_base::NetworkLengths;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};
use toml_edit::{Document, TableLike};

/// The part of a config that a running server keeps until it is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The directory of its state, which it has locked.
    pub state_dir: String,
    /// Who it has become, and its group.
    pub user: Option<String>,
    /// The group, where it is not that of the user.
    pub group: Option<String>,
    /// The cores that its shards are pinned to.
    pub cores: CoreUse,
    /// Its sockets, sorted by name: their order does not matter.
    pub listeners: Vec<FixedListener>,
    /// What makes a network, and so which shard owns an address.
    pub networks: NetworkLengths,
    /// Its logs.
    pub spool: ringpost_spool::Options,
    /// Where it serves health, metrics and its API, who may use that, and where changes are written down.
    pub admin: Admin,
}

/// The part of a listener that stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedListener {
    /// The name in log lines.
    pub name: String,
    /// What is spoken there.
    pub kind: ListenerKind,
    /// The addresses of its sockets.
    pub address: Vec<SocketAddr>,
    /// Whether the file asks for connections to be steered.
    pub steer: bool,
}

impl Config {
    /// The part that a running server keeps until it is started again.
    pub fn fixed(&self) -> Fixed {
        let listener = |listener: &Listener| FixedListener {
            name: listener.name.clone(),
            kind: listener.kind,
            address: listener.address.clone(),
            steer: listener.steer,
        };
        let mut listeners: Vec<_> = self.listeners.iter().map(listener).collect();
        listeners.sort_by(|one, other| one.name.cmp(&other.name));
        Fixed {
            state_dir: self.server.state_dir.clone(),
            user: self.server.user.clone(),
            group: self.server.group.clone(),
            cores: self.cores.using.clone(),
            listeners,
            networks: self.policy.ledger.networks,
            spool: self.spool,
            admin: self.admin.clone(),
        }
    }

    /// Every key by its path with its value as a file has it, but for what may be a secret.
    pub fn values(&self) -> BTreeMap<String, String> {
        let values = Values::of_text(&self.render()).values.into_iter();
        values.map(|(path, value)| (path, value.text.trim().to_owned())).collect()
    }

    /// The path of every key that differs in `new`, sorted. Tables of a list go by their names, as in
    /// `domain[example.org].recipients`; one that is added or gone is a path of its own, and so is a list whose order
    /// has changed.
    pub fn differences(&self, new: &Self) -> Vec<String> {
        differences(self, new).into_keys().collect()
    }

    /// Those of the [differences](Self::differences) that take effect when the server is started again.
    pub fn differences_that_need_restart(&self, new: &Self) -> Vec<String> {
        let waits = |(path, change)| (change == Change::Restart).then_some(path);
        differences(self, new).into_iter().filter_map(waits).collect()
    }

    /// What a server with this config runs with once it has read `new`: everything of `new`, but for what waits for
    /// the next start. A listener that it keeps takes the rest of its keys from the one of the same name.
    ///
    /// # Errors
    /// What of `new` does not go together with what is kept, as a `message_memory` that holds a message of the
    /// new `spool.inline_max` and not one of the old. The lines are those of the config as it is rendered.
    pub fn reloaded(&self, new: &Self) -> Result<Self, Errors> {
        let mut next = new.clone();
        next.server.state_dir.clone_from(&self.server.state_dir);
        next.server.user.clone_from(&self.server.user);
        next.server.group.clone_from(&self.server.group);
        next.cores.using.clone_from(&self.cores.using);
        next.listeners.clone_from(&self.listeners);
        for listener in &mut next.listeners {
            if let Some(fresh) = new.listeners.iter().find(|fresh| fresh.name == listener.name) {
                listener.tls = fresh.tls;
                listener.proxy_from.clone_from(&fresh.proxy_from);
                listener.xclient_from.clone_from(&fresh.xclient_from);
                listener.xforward_from.clone_from(&fresh.xforward_from);
            }
        }
        next.policy.ledger.networks = self.policy.ledger.networks;
        next.spool = self.spool;
        next.admin.clone_from(&self.admin);
        // The name that the system has for itself need not be one that the file may give.
        let mut written = next.clone();
        written.server.hostname.clear();
        Self::parse("effective config", &written.render_in_full()).map(|_| next)
    }
}

fn differences(old: &Config, new: &Config) -> BTreeMap<String, Change> {
    let (old, new) = (Values::of(old), Values::of(new));
    let mut paths = BTreeMap::new();
    for (one, other) in [(&old, &new), (&new, &old)] {
        for (path, value) in &one.values {
            let gone = value.tables.iter().find(|table| !other.tables.contains(*table));
            let same = other.values.get(path).is_some_and(|other| other.text == value.text);
            if gone.is_some() || !same {
                // A table that only one of them has is one difference, which waits if any key of it does.
                let change = paths.entry(gone.unwrap_or(path).clone()).or_insert(value.change);
                *change = (*change).max(value.change);
            }
        }
        for (list, names) in &one.lists {
            let others = other.lists.get(list).map(Vec::as_slice).unwrap_or_default();
            let common = |name: &&String| names.contains(name) && others.contains(name);
            if !names.iter().filter(common).eq(others.iter().filter(common)) && ORDERED.contains(&list.as_str()) {
                paths.insert(list.clone(), Change::Reload);
            }
        }
    }
    paths
}

/// Lists whose order means something: the first domain is that of a postmaster without one, the first certificate is
/// for names that none is for.
const ORDERED: [&str; 2] = ["domain", "tls.certificates"];

/// Every key of a config by its path.
#[derive(Default)]
struct Values {
    values: BTreeMap<String, Value>,
    /// The path of every table of a list.
    tables: BTreeSet<String>,
    /// The tables of each list by name, in order.
    lists: BTreeMap<String, Vec<String>>,
}

struct Value {
    text: String,
    change: Change,
    /// The tables of lists that it is in, outermost first.
    tables: Vec<String>,
}

/// Where the walk is: as a difference is told, and as the sections have it.
#[derive(Clone, Default)]
struct Path {
    told: String,
    described: String,
    tables: Vec<String>,
}

impl Values {
    fn of(config: &Config) -> Self {
        Self::of_text(&config.render_in_full())
    }

    fn of_text(text: &str) -> Self {
        let mut values = Self::default();
        let document = Document::parse(text);
        debug_assert!(document.is_ok(), "what is rendered is TOML");
        if let Ok(document) = document {
            values.walk(document.as_table(), &Path::default());
        }
        values
    }

    fn walk(&mut self, items: &dyn TableLike, path: &Path) {
        for (name, item) in items.iter() {
            let here = Path {
                told: join(&path.told, name),
                described: join(&path.described, name),
                tables: path.tables.clone(),
            };
            let row = row(&here.described);
            let is_whole = row.is_some_and(|row| matches!(row.kind, Kind::Pairs(_)));
            if let Some(table) = item.as_table_like().filter(|_| !is_whole) {
                self.walk(table, &here);
            } else if let Some(tables) = item.as_array_of_tables() {
                tables.iter().enumerate().for_each(|(n, table)| self.enter(table, n, &here));
            } else if let Some(row) = row.filter(|row| !row.is_table()) {
                let value = Value { text: item.to_string(), change: row.change, tables: here.tables };
                self.values.insert(here.told, value);
            }
        }
    }

    /// Walks through a table of a list, which goes by what tells it from the others, less what of that may be a secret.
    fn enter(&mut self, table: &dyn TableLike, n: usize, list: &Path) {
        let key = ["name", "core", "cert", "zone"].into_iter().find_map(|key| Some((key, table.get(key)?)));
        let name = key.map(|(key, value)| {
            let name = value.as_str().map_or_else(|| value.to_string().trim().to_owned(), str::to_owned);
            row(&join(&list.described, key)).map_or(Secret::None, |row| row.secret).hide(&name)
        });
        let names = self.lists.entry(list.told.clone()).or_default();
        let name = name.filter(|name| !names.contains(name)).unwrap_or_else(|| n.to_string());
        let mut here = list.clone();
        here.told = format!("{}[{name}]", list.told);
        here.tables.push(here.told.clone());
        names.push(name);
        self.tables.insert(here.told.clone());
        self.walk(table, &here);
    }
}

/// The row of the key at this path.
fn row(path: &str) -> Option<&'static Key> {
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    SECTIONS.iter().find(|section| section.path == table).and_then(|section| section.key(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse("f", text).unwrap_or_else(|errors| panic!("{errors:#}\n{text}"))
    }

    /// Compares two texts: all differences, and those that wait. The type and the rows have to agree.
    #[track_caller]
    fn check(old: &str, new: &str, all: &[&str], waiting: &[&str]) {
        let (old, new) = (parse(old), parse(new));
        assert_eq!(old.differences(&new), all);
        assert_eq!(new.differences(&old), all, "from new to old");
        assert_eq!(old.differences_that_need_restart(&new), waiting);
        assert_eq!(old.fixed() == new.fixed(), waiting.is_empty());
    }

    const DOMAIN_A: &str = "[[domain]]\nname = 'a.org'\ntarget = 'local'\n";
    const DOMAIN_B: &str = "[[domain]]\nname = 'b.org'\ntarget = 'local'\n";

    #[test]
    fn values_by_their_paths() {
        let target = "[[target]]\nname = 'local'\nkind = 'webhook'\nurl = 'https://a/?b'";
        let values = parse(&format!("limits.bytes_per_ip = '3MiB'\n{target}")).values();
        for (path, value) in [
            ("limits.bytes_per_ip", "\"3MiB\""),
            ("limits.recipients", "1000"),
            ("cores.limits.connections", "20000"),
            ("target[local].url", "\"https://a/?***\""),
        ] {
            assert_eq!(values.get(path).map(String::as_str), Some(value), "{path}");
        }
    }

    #[test]
    fn values_differ() {
        check("", "", &[], &[]);
        check("", "limits.messages_per_ip = 5", &["limits.messages_per_ip"], &[]);
        check("limits.network_v4 = 20", "", &["limits.network_v4"], &["limits.network_v4"]);
        check(
            "log.level = 'warn'\nspool.commit_delay = '3ms'",
            "",
            &["log.level", "spool.commit_delay"],
            &["spool.commit_delay"],
        );
    }

    #[test]
    fn tables_of_lists_differ() {
        check(DOMAIN_A, &format!("{DOMAIN_A}{DOMAIN_B}"), &["domain[b.org]"], &[]);
        check(DOMAIN_B, &format!("{DOMAIN_A}{DOMAIN_B}"), &["domain[a.org]"], &[]);
        check(&format!("{DOMAIN_B}{DOMAIN_A}"), &format!("{DOMAIN_A}{DOMAIN_B}"), &["domain"], &[]);
        check(DOMAIN_A, &format!("{DOMAIN_A}tls_required = true"), &["domain[a.org].tls_required"], &[]);
        let one = "[[listener]]\nname = 'a'\naddress = ['127.0.0.1:25']\n";
        let other = "[[listener]]\nname = 'b'\naddress = ['127.0.0.2:25']\n";
        check(one, &format!("{other}{one}"), &["listener[b]"], &["listener[b]"]);
        check(&format!("{one}{other}"), &format!("{other}{one}"), &[], &[]);
        check(
            one,
            "[[listener]]\nname = 'a'\naddress = ['127.0.0.3:25']\ntls = 'off'\n",
            &["listener[a].address", "listener[a].tls"],
            &["listener[a].address"],
        );
        check("", "tls.certificates = [{ cert = 'a', key = 'b' }]", &["tls.certificates[a]"], &[]);
        check("", "[[cores.override]]\ncore = 3\nlimits.connections = 5", &["cores.override[3]"], &[]);
        let list = |answer| format!("{{ zone = 'a.example', weight = 1, answers = ['{answer}'] }}");
        check(
            &format!("screen.list = [{}, {}]", list("127.0.0.2"), list("127.0.0.3")),
            &format!("screen.list = [{}, {}]", list("127.0.0.2"), list("127.0.0.4")),
            &["screen.list[1].answers"],
            &[],
        );
    }

    /// The paths go to the log, to whoever reads the API and to the audit log.
    #[test]
    fn the_key_in_a_zone_is_in_no_path() {
        let key = "abcdefghijklmnopqrstuvwxyz";
        let list = |key: &str, weight| format!("{{ zone = '{key}.zen.dq.example.net', weight = {weight} }}");
        let screen = |lists: &[&str]| format!("screen.list = [{}]", lists.join(", "));
        let (one, other) = (list(key, 1), list(&key.to_uppercase().replace('A', "b"), 1));
        let (one, other) = (one.as_str(), other.as_str());
        let path = "screen.list[***.zen.dq.example.net]";
        check("", &screen(&[one]), &[path], &[]);
        check(&screen(&[one]), &screen(&[&list(key, 2)]), &[&format!("{path}.weight")], &[]);
        check(&screen(&[one]), &screen(&[other]), &[&format!("{path}.zone")], &[]);
        check(&screen(&[one]), &screen(&[one, other]), &["screen.list[1]"], &[]);
        let both = parse(&screen(&[one, other]));
        let shown: Vec<_> = both.values().into_iter().filter(|(path, _)| path.starts_with("screen.list")).collect();
        assert_eq!(shown.len(), 6, "{shown:?}");
        assert!(!format!("{shown:?}").to_lowercase().contains(&key[1..]), "{shown:?}");
    }

    #[test]
    fn routes_and_targets_differ() {
        let webhook = |headers| {
            format!("[[target]]\nname = 'local'\nkind = 'webhook'\nurl = 'http://a'\nheaders = {{ {headers} }}\n")
        };
        check(&webhook("a = 'b'"), &webhook("a = 'c'"), &["target[local].headers"], &[]);
        check(&webhook("a = 'b'"), &webhook("b = 'b'"), &["target[local].headers"], &[]);
        check(&webhook("a = 'b'"), &webhook(" 'a'='b' "), &[], &[]);
        let route = |pattern| format!("[[route]]\nrecipient = '{pattern}'\ntarget = 'local'\n");
        check("", &route("*"), &["route[0]"], &[]);
        let (one, other) = (route("a@*"), route("b@*"));
        check(&format!("{one}{other}"), &format!("{other}{one}"), &["route[0].recipient", "route[1].recipient"], &[]);
        check("", "spool.space_soft = '1GiB'", &["spool.space_soft"], &[]);
    }

    #[test]
    fn what_is_kept_is_kept() {
        let old = parse(
            "[[listener]]\nname = 'a'\naddress = ['127.0.0.1:25']\n[[listener]]\nname = 'b'\naddress = \
             ['127.0.0.1:26']\n[limits]\nnetwork_v4 = 20",
        );
        let new = parse(
            "[[listener]]\nname = 'c'\naddress = ['127.0.0.1:27']\n[[listener]]\nname = 'a'\naddress = \
             ['127.0.0.1:28']\nproxy_from = ['10.0.0.1']\n[server]\nstate_dir = 'x'\nuser = 'mail'\ngroup = 'mail'\nhostname = 'mx.example.org'\n\
             [cores]\nuse = 1\n[spool]\nbatch_max = '1MiB'\n[admin]\nlisten = 'off'\nsocket = 'off'\noperators = ['a']\nreaders = ['b']\naudit = ''\n\
             [limits]\nnetwork_v6 = 56\nmessages_per_ip = 5\n[log]\nlevel = 'warn'",
        );
        let next = old.reloaded(&new).expect("the two go together");
        assert_eq!(next.fixed(), old.fixed());
        assert_eq!(next.listeners.iter().map(|listener| listener.proxy_from.len()).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(next.policy.ledger.messages_per_ip, Some(5));
        assert_eq!((next.smtp.hostname.as_str(), &next.log), ("mx.example.org", &new.log));
        let restart = next.differences_that_need_restart(&new);
        assert_eq!(next.differences(&new), restart, "nothing but what waits is left");
        assert_eq!(
            restart,
            [
                "admin.audit",
                "admin.listen",
                "admin.operators",
                "admin.readers",
                "admin.socket",
                "cores.use",
                "limits.network_v4",
                "limits.network_v6",
                "listener[a].address",
                "listener[b]",
                "listener[c]",
                "server.group",
                "server.state_dir",
                "server.user",
                "spool.batch_max",
            ]
        );
    }

    #[test]
    fn what_does_not_go_with_what_is_kept_is_an_error() {
        let new = parse("spool.inline_max = '64KiB'\ncores.limits.message_memory = '64KiB'");
        let errors = Config::default().reloaded(&new).expect_err("the kept inline_max is larger");
        assert_eq!(errors.iter().map(|error| error.key.as_str()).collect::<Vec<_>>(), ["cores.limits.message_memory"]);
        assert!(errors.to_string().starts_with("effective config:"), "{errors}");
    }

    #[test]
    fn a_host_name_of_the_system_that_the_file_may_not_give_is_no_error() {
        let mut config = Config::default();
        config.set_hostname("mx_1");
        let next = config.reloaded(&config).expect("nothing has changed");
        assert_eq!(next, config);
    }
}
