//! The effective config as a file, for `config show`.
//!
//! Every key is written, also those at their default, in the order of the reference page. What is written reads back
//! to an equal config.

use crate::{
    config::{Config, CoreLimits, CoreUse, TargetKind},
    keys::{Choice, name_of},
};
use ringpost_policy::Recipients;
use std::fmt::{Display, Write};
use toml_edit::{Array, Value};

impl Config {
    /// The config as TOML, every key written.
    pub fn render(&self) -> String {
        let mut page = Page::default();
        self.render_process(&mut page);
        self.render_listeners(&mut page);
        self.render_session(&mut page);
        self.render_routes(&mut page);
        page.text
    }

    fn render_process(&self, page: &mut Page) {
        page.section("[server]");
        page.text("hostname", &self.server.hostname);
        page.text("state_dir", &self.server.state_dir);
        page.quoted("drain_timeout", self.server.drain_timeout);

        page.section("[admin]");
        match self.admin.listen {
            Some(address) => page.quoted("listen", address),
            None => page.text("listen", "off"),
        }

        page.section("[log]");
        page.choice("format", self.log.format);
        page.choice("level", self.log.level);

        page.section("[cores]");
        match &self.cores.using {
            CoreUse::All => page.text("use", "all"),
            CoreUse::Count(count) => page.bare("use", count),
            CoreUse::Ids(ids) => page.bare("use", format_args!("{ids:?}")),
        }
        page.section("[cores.limits]");
        core_limits(page, "", &self.cores.limits);
        for entry in &self.cores.overrides {
            page.section("[[cores.override]]");
            page.bare("core", entry.core);
            core_limits(page, "limits.", &entry.limits);
        }
    }

    fn render_listeners(&self, page: &mut Page) {
        for listener in &self.listeners {
            page.section("[[listener]]");
            page.text("name", &listener.name);
            page.choice("kind", listener.kind);
            page.list("address", listener.address.iter().map(ToString::to_string));
            page.choice("tls", listener.tls);
        }

        page.section("[tls]");
        if self.tls.certificates.is_empty() {
            page.bare("certificates", "[]");
        }
        page.choice("min_version", self.tls.min_version);
        for certificate in &self.tls.certificates {
            page.section("[[tls.certificates]]");
            page.text("cert", &certificate.cert);
            page.text("key", &certificate.key);
        }
    }

    fn render_session(&self, page: &mut Page) {
        page.section("[limits]");
        page.quoted("command_timeout", self.limits.command_timeout);
        page.quoted("data_timeout", self.limits.data_timeout);
        page.bare("connections", self.limits.connections.unwrap_or(0));
        page.quoted("message_size", self.smtp.message_size_max);
        page.bare("recipients", self.smtp.recipients_max);
        page.bare("errors_per_session", self.smtp.errors_max);
        page.bare("hops", self.policy.hops_max);

        page.section("[smtp]");
        page.choice("bare_newline", self.smtp.bare_newline);

        page.section("[spool]");
        page.quoted("segment_size", self.spool.segment_size);
        page.quoted("inline_max", self.spool.inline_max);
        page.quoted("batch_max", self.spool.batch_max);
        page.quoted("commit_delay", self.spool.commit_delay);

        page.section("[queue]");
        page.quoted("retry_first", self.queue.retry_first);
        page.quoted("retry_max", self.queue.retry_max);
        page.bare("attempts_max", self.queue.attempts_max);
    }

    fn render_routes(&self, page: &mut Page) {
        for domain in &self.policy.domains {
            page.section("[[domain]]");
            page.text("name", &domain.name);
            match &domain.recipients {
                Recipients::Any => page.text("recipients", "any"),
                Recipients::Listed(names) => page.list("recipients", names),
            }
            page.text("target", &domain.target);
        }
        for target in &self.targets {
            page.section("[[target]]");
            page.text("name", &target.name);
            match &target.kind {
                TargetKind::Maildir { path } => {
                    page.text("kind", "maildir");
                    page.text("path", path);
                }
                TargetKind::Discard => page.text("kind", "discard"),
            }
        }
    }
}

fn core_limits(page: &mut Page, prefix: &str, limits: &CoreLimits) {
    page.bare(&format!("{prefix}connections"), limits.connections);
    page.bare(&format!("{prefix}messages_in_flight"), limits.messages_in_flight);
    page.quoted(&format!("{prefix}message_memory"), limits.message_memory);
    page.quoted(&format!("{prefix}spool_backlog"), limits.spool_backlog);
}

/// A file being written.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn section(&mut self, header: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.text, "{gap}{header}");
    }

    /// A key whose value is its own text form in TOML.
    fn bare(&mut self, key: &str, value: impl Display) {
        let _ = writeln!(self.text, "{key} = {value}");
    }

    /// A key whose text form has nothing to escape.
    fn quoted(&mut self, key: &str, value: impl Display) {
        self.bare(key, format_args!("\"{value}\""));
    }

    fn choice<T: Choice>(&mut self, key: &str, value: T) {
        self.quoted(key, name_of(value));
    }

    /// A key with any text.
    fn text(&mut self, key: &str, value: &str) {
        self.bare(key, Value::from(value));
    }

    fn list<S: Into<Value>>(&mut self, key: &str, values: impl IntoIterator<Item = S>) {
        self.bare(key, values.into_iter().collect::<Array>());
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    fn check(text: &str) {
        let config = Config::parse("f", text).unwrap_or_else(|errors| panic!("{errors}"));
        let rendered = config.render();
        let again = Config::parse("rendered", &rendered).unwrap_or_else(|errors| panic!("{errors:#}\n{rendered}"));
        assert_eq!(again, config, "{rendered}");
        assert_eq!(again.render(), rendered);
    }

    #[test]
    fn what_is_rendered_reads_back() {
        check("");
        check(
            "[server]\nhostname = 'mx.example.org'\nstate_dir = '''/a \"b\" 'c' \\d'''\ndrain_timeout = '1500ms'\n\
             [cores]\nuse = [4, 5]\nlimits.connections = 5\n[[cores.override]]\ncore = 5\nlimits.message_memory = \
             '1GiB'\n [[listener]]\nname = 'a'\naddress = ['[::]:25', '0.0.0.0:25']\ntls = 'implicit'\n\
             [tls]\nmin_version = '1.3'\n[[tls.certificates]]\ncert = 'ä'\nkey = 'b'\n[[tls.certificates]]\ncert = \
             'c'\n key = 'd'\n[limits]\nmessage_size = 65537\nconnections = 9\n[smtp]\nbare_newline = 'repair'\n\
             [[domain]]\nname = 'a.org'\nrecipients = ['o\"brien', 'b']\ntarget = 'x'\n\
             [[domain]]\nname = 'b.org'\ntarget = 'y'\n[[target]]\nname = 'x'\nkind = 'maildir'\npath = '{address}'\n\
             [[target]]\nname = 'y'\nkind = 'discard'\n[admin]\nlisten = 'off'\n[log]\nformat = 'text'\nlevel = 'warn'",
        );
        check("cores.use = 3\ncores.limits.spool_backlog = 100001");
    }
}
