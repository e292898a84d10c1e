//! The effective config as a file, for `config show`.
//!
//! Every key is written, also those at their default, in the order of the reference page. What is written reads back
//! to an equal config, but for what may be a secret: the rows of the keys say which that is, and it is not shown.

use crate::{
    config::{Certificate, Config, CoreLimits, CoreUse},
    keys::{Choice, Section, name_of},
    reference::SECTIONS,
    secrets::Secret,
    sections::target::KindName,
    targets::{HopOptions, Target, TargetKind, WebhookOptions},
};
use ringpost_base::{Durability, Priority};
use ringpost_policy::Recipients;
use std::{
    fmt::{Display, Write},
    net::Ipv4Addr,
};
use toml_edit::{Array, InlineTable, Value};

impl Config {
    /// The config as TOML, every key written, and `***` in place of what may be a secret.
    pub fn render(&self) -> String {
        self.render_on(Page::default())
    }

    /// The same with secrets, to be compared or read back.
    pub(crate) fn render_in_full(&self) -> String {
        self.render_on(Page { secrets: true, ..Page::default() })
    }

    fn render_on(&self, mut page: Page) -> String {
        self.render_server(&mut page);
        self.render_listeners(&mut page);
        self.render_tls(&mut page);
        self.render_limits(&mut page);
        self.render_bans(&mut page);
        self.render_screen(&mut page);
        self.render_storage(&mut page);
        self.render_routes(&mut page);
        self.render_observation(&mut page);
        page.text
    }

    fn render_server(&self, page: &mut Page) {
        page.section("[server]");
        page.text("hostname", &self.server.hostname);
        page.text("state_dir", &self.server.state_dir);
        page.quoted("drain_timeout", self.server.drain_timeout);
        page.quoted("stall_timeout", self.server.stall_timeout);
        page.optional("user", self.server.user.as_deref());
        page.optional("group", self.server.group.as_deref());

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
            page.texts("address", &listener.address);
            page.choice("tls", listener.tls);
            page.texts("proxy_from", &listener.proxy_from);
            page.texts("xclient_from", &listener.xclient_from);
            page.texts("xforward_from", &listener.xforward_from);
            page.bare("steer", listener.steer);
        }
    }

    fn render_tls(&self, page: &mut Page) {
        page.section("[tls]");
        page.bare("required", self.tls.required);
        if self.tls.certificates.is_empty() {
            page.bare("certificates", "[]");
        }
        page.choice("min_version", self.tls.min_version);
        page.bare("min_strength", self.tls.min_strength.bits());
        page.bare("post_quantum", self.tls.post_quantum);
        page.choice("client_certificates", self.tls.client_certificates);
        page.optional("client_ca", self.tls.client_ca.as_deref());
        page.quoted("expiry_warning", self.tls.expiry_warning);
        for certificate in &self.tls.certificates {
            page.section("[[tls.certificates]]");
            page.text("cert", &certificate.cert);
            page.text("key", &certificate.key);
            page.optional("ocsp", certificate.ocsp.as_deref());
        }

        page.section("[dns]");
        page.texts("servers", &self.dns.servers);
        page.quoted("timeout", self.dns.timeout);
        page.bare("attempts", self.dns.attempts);
        page.bare("cache", self.dns.cache);
    }

    fn render_limits(&self, page: &mut Page) {
        let (limits, smtp, policy, ledger) = (&self.limits, &self.smtp, &self.policy, &self.policy.ledger);
        page.section("[limits]");
        page.quoted("command_timeout", limits.command_timeout);
        page.quoted("data_timeout", limits.data_timeout);
        page.quoted("session_timeout", limits.session_timeout.unwrap_or_default());
        page.bare("connections", limits.connections.unwrap_or(0));
        page.bare("connections_soft", policy.connections_soft_percent);
        page.quoted("banner_delay", policy.banner_delay);
        for (key, limit) in [
            ("connections_per_ip", ledger.connections_per_ip),
            ("connections_per_network", ledger.connections_per_network),
            ("connection_rate_per_ip", ledger.connection_rate_per_ip),
            ("connection_rate_per_network", ledger.connection_rate_per_network),
            ("messages_per_ip", ledger.messages_per_ip),
            ("messages_per_network", ledger.messages_per_network),
            ("recipients_per_ip", ledger.recipients_per_ip),
            ("recipients_per_network", ledger.recipients_per_network),
        ] {
            page.bare(key, limit.unwrap_or(0));
        }
        page.quoted("bytes_per_ip", ledger.bytes_per_ip.unwrap_or_default());
        page.quoted("bytes_per_network", ledger.bytes_per_network.unwrap_or_default());
        page.bare("network_v4", ledger.networks.v4);
        page.bare("network_v6", ledger.networks.v6);
        page.quoted("message_size", smtp.message_size_max);
        page.bare("recipients", smtp.recipients_max);
        page.bare("messages_per_session", smtp.messages_per_session);
        page.bare("errors_per_session", smtp.errors_max);
        page.bare("unknown_recipients_per_session", smtp.unknown_recipients_max);
        page.bare("commands_without_progress", smtp.commands_max);
        page.bare("hops", policy.hops_max);

        page.section("[smtp]");
        page.choice("bare_newline", smtp.bare_newline);
    }

    fn render_bans(&self, page: &mut Page) {
        let bans = &self.policy.bans;
        page.section("[bans]");
        page.texts("allow", &bans.allow);
        let set = bans.nftables.as_ref();
        let set = set.map(|set| format!("{} {} {} {}", set.family, set.table, set.set_v4, set.set_v6));
        page.optional("nftables", set.as_deref());
        for rule in &bans.rules {
            page.section("[[bans.rule]]");
            page.choice("offence", rule.offence);
            page.bare("count", rule.count);
            page.quoted("window", rule.window);
            page.quoted("duration", rule.duration);
        }
    }

    fn render_screen(&self, page: &mut Page) {
        let screen = &self.policy.screen;
        page.section("[screen]");
        page.quoted("pregreet_wait", screen.pregreet_wait);
        page.quoted("deadline", screen.deadline);
        page.or_off("score_tarpit", screen.score_tarpit);
        page.or_off("score_greylist", screen.score_greylist);
        page.or_off("score_reject", screen.score_reject);
        page.quoted("tarpit_delay", screen.tarpit_delay);
        page.bare("weight_pregreet", screen.weight_pregreet);
        page.bare("weight_helo_malformed", screen.weight_helo_malformed);
        page.bare("weight_helo_own_name", screen.weight_helo_own_name);
        page.bare("weight_helo_literal", screen.weight_helo_literal);
        page.bare("weight_helo_unresolved", screen.weight_helo_unresolved);
        page.bare("weight_rdns_missing", screen.weight_rdns_missing);
        page.bare("weight_rdns_unconfirmed", screen.weight_rdns_unconfirmed);
        for list in &screen.lists {
            page.section("[[screen.list]]");
            page.text("zone", &list.zone);
            page.bare("weight", list.weight);
            page.texts("answers", list.answers.iter().map(|(first, last)| answers(*first, *last)));
        }

        let greylist = &self.policy.greylist;
        page.section("[greylist]");
        page.choice("mode", greylist.mode);
        page.quoted("delay", greylist.delay);
        page.quoted("window", greylist.window);
        page.quoted("lifetime", greylist.lifetime);
        page.bare("network_passes", greylist.network_passes);
        page.bare("entries", greylist.entries_max);
    }

    fn render_storage(&self, page: &mut Page) {
        page.section("[spool]");
        page.quoted("segment_size", self.spool.segment_size);
        page.quoted("inline_max", self.spool.inline_max);
        page.quoted("batch_max", self.spool.batch_max);
        page.quoted("commit_delay", self.spool.commit_delay);
        page.quoted("space_soft", self.space.soft);
        page.quoted("space_hard", self.space.hard);

        let queue = &self.queue;
        page.section("[queue]");
        page.quoted("retry_first", queue.retry_first);
        page.quoted("retry_max", queue.retry_max);
        page.bare("retry_jitter", queue.retry_jitter_percent);
        page.bare("attempts_max", queue.attempts_max);
        page.quoted("expire_after", queue.expire_after);
        page.quoted("delay_notice", queue.delay_notice.unwrap_or_default());
        page.quoted("dead_letters_keep", queue.dead_letters_keep);
        page.bare("dead_letters_max", queue.dead_letters_max);
        page.optional("default_target", self.routing.default_target.as_deref());
        page.quoted("next_hop_timeout", self.routing.next_hop_timeout);
    }

    fn render_routes(&self, page: &mut Page) {
        for domain in &self.policy.domains {
            page.section("[[domain]]");
            page.text("name", &domain.name);
            match &domain.recipients {
                Recipients::Any => page.text("recipients", "any"),
                Recipients::Listed(names) => page.texts("recipients", names),
                Recipients::File(path) => page.text("recipients.file", path),
            }
            page.text("subaddress", &domain.subaddress.map(String::from).unwrap_or_default());
            page.bare("tls_required", domain.tls_required);
            if let Some(route) = self.routing.domains.iter().find(|route| route.domain == domain.name) {
                lead(page, &route.targets, route.durability, route.priority);
            }
        }
        for route in &self.routing.patterns {
            page.section("[[route]]");
            page.one_or_more("recipient", &route.recipients);
            lead(page, &route.targets, route.durability, route.priority);
        }
        self.targets.iter().for_each(|target| render_target(page, target));
    }

    fn render_observation(&self, page: &mut Page) {
        page.section("[explain]");
        page.quoted("memory", self.explain.memory);

        page.section("[admin]");
        page.text("listen", &self.admin.listen.map_or_else(|| "off".to_owned(), |address| address.to_string()));
        page.text("socket", self.admin.socket.as_deref().unwrap_or("off"));
        page.texts("operators", &self.admin.operators);
        page.texts("readers", &self.admin.readers);
        page.optional("audit", self.admin.audit.as_deref());

        let canary = &self.canary;
        page.section("[canary]");
        page.bare("rejects", canary.rejects);
        page.bare("errors", canary.errors);
        page.bare("latency_factor", canary.latency_factor);
        page.quoted("latency_min", canary.latency_min);
        page.bare("messages_min", canary.messages_min);

        page.section("[log]");
        page.choice("format", self.log.format);
        page.choice("level", self.log.level);
        let modules: InlineTable =
            self.log.modules.iter().map(|(name, level)| (name.as_str(), name_of(*level))).collect();
        page.bare("modules", modules);
        page.texts("redact", self.log.redact.iter().map(|kind| name_of(*kind)));
        page.bare("flood", self.log.flood.unwrap_or(0));

        let telemetry = &self.telemetry;
        page.section("[telemetry]");
        page.optional("endpoint", telemetry.endpoint.as_deref());
        page.bare("sample", telemetry.sample);
        page.quoted("timeout", telemetry.timeout);
        page.optional("ca", telemetry.ca.as_deref());
        page.optional("headers_file", telemetry.headers_file.as_deref());
    }
}

fn lead(page: &mut Page, targets: &[String], durability: Durability, priority: Priority) {
    page.one_or_more("target", targets);
    page.choice("durability", durability);
    page.choice("priority", priority);
}

fn render_target(page: &mut Page, target: &Target) {
    page.section("[[target]]");
    page.text("name", &target.name);
    page.choice("kind", KindName::of(&target.kind));
    match &target.kind {
        TargetKind::Maildir { path } | TargetKind::File { path } => page.text("path", path),
        TargetKind::Discard => {}
        TargetKind::Lmtp(hop) | TargetKind::Smtp(hop) => render_hop(page, hop),
        TargetKind::Webhook(webhook) => render_webhook(page, webhook),
    }
    if !target.kind.is_local() {
        page.bare("concurrency", target.destination.concurrency);
        page.bare("rate", target.destination.messages_per_minute.unwrap_or(0));
        page.bare("breaker_failures", target.destination.breaker_failures);
        page.quoted("breaker_pause", target.destination.breaker_pause);
        page.quoted("breaker_pause_max", target.destination.breaker_pause_max);
    }
}

fn render_hop(page: &mut Page, hop: &HopOptions) {
    page.texts("hosts", &hop.hosts);
    page.choice("tls", hop.tls);
    page.optional("tls_ca", hop.tls_ca.as_deref());
    page.optional("tls_name", hop.tls_name.as_deref());
    page.certificate("tls_cert", "tls_key", hop.tls_certificate.as_ref());
    page.bare("messages_per_connection", hop.messages_per_connection);
    page.quoted("idle_timeout", hop.idle_timeout);
    page.quoted("connect_timeout", hop.connect_timeout);
    page.quoted("command_timeout", hop.command_timeout);
    page.quoted("data_timeout", hop.data_timeout);
}

fn render_webhook(page: &mut Page, webhook: &WebhookOptions) {
    page.text("url", &webhook.url);
    page.choice("format", webhook.format);
    page.optional("secret_file", webhook.secret_file.as_deref());
    page.optional("ca", webhook.ca.as_deref());
    page.certificate("cert", "key", webhook.certificate.as_ref());
    page.quoted("timeout", webhook.timeout);
    let shown = |(name, value): &(String, String)| (name.clone(), page.shown("headers", value));
    let headers: InlineTable = webhook.headers.iter().map(shown).collect();
    page.bare("headers", headers);
}

fn answers(first: Ipv4Addr, last: Ipv4Addr) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
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
    /// The section that is being written.
    section: Option<&'static Section>,
    /// Whether secrets are written too.
    secrets: bool,
}

impl Page {
    fn section(&mut self, header: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.text, "{gap}{header}");
        self.section = SECTIONS.iter().find(|section| section.header == header).copied();
    }

    /// The value of a key, less what its row says not to be shown.
    fn shown(&self, key: &str, value: &str) -> String {
        let row = self.section.and_then(|section| section.key(key)).filter(|_| !self.secrets);
        row.map_or(Secret::None, |row| row.secret).hide(value)
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
        let value = self.shown(key, value);
        self.bare(key, Value::from(value));
    }

    /// A key with any text, empty where there is none.
    fn optional(&mut self, key: &str, value: Option<&str>) {
        self.text(key, value.unwrap_or_default());
    }

    /// A key with a list of texts.
    fn texts(&mut self, key: &str, values: impl IntoIterator<Item: Display>) {
        self.bare(key, values.into_iter().map(|value| value.to_string()).collect::<Array>());
    }

    /// A key with a text, or with a list of them where they are several.
    fn one_or_more(&mut self, key: &str, values: &[String]) {
        match values {
            [only] => self.text(key, only),
            _ => self.texts(key, values),
        }
    }

    /// The keys of a certificate's files.
    fn certificate(&mut self, cert: &str, key: &str, certificate: Option<&Certificate>) {
        self.optional(cert, certificate.map(|certificate| certificate.cert.as_str()));
        self.optional(key, certificate.map(|certificate| certificate.key.as_str()));
    }

    /// A key with a number, or none.
    fn or_off(&mut self, key: &str, value: Option<i32>) {
        match value {
            Some(number) => self.bare(key, number),
            None => self.text(key, "off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    #[track_caller]
    fn check(text: &str) {
        let config = Config::parse("f", text).unwrap_or_else(|errors| panic!("{errors}"));
        let rendered = config.render_in_full();
        let again = Config::parse("rendered", &rendered).unwrap_or_else(|errors| panic!("{errors:#}\n{rendered}"));
        assert_eq!(again, config, "{rendered}");
        assert_eq!(again.render_in_full(), rendered);
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
             [[target]]\nname = 'y'\nkind = 'discard'\n[admin]\nlisten = 'off'\n[log]\nformat = 'text'\nlevel = 'warn'\nredact = ['client', 'mail']\n\
             flood = 0\nmodules = { serve = 'debug', 'net::tls' = 'trace' }",
        );
        check("cores.use = 3\ncores.limits.spool_backlog = 100001");
    }

    #[test]
    fn what_defends_reads_back() {
        check(
            "[[listener]]\nname = 'l'\nkind = 'lmtp'\naddress = ['[::1]:24']\nproxy_from = ['10.0.0.0/8', '::1']\n\
             xclient_from = ['::1']\nxforward_from = ['127.0.0.1']\nsteer = false\n\
             [tls]\nrequired = true\nmin_strength = 256\npost_quantum = false\nclient_certificates = 'ask'\n\
             client_ca = 'ä \"b'\n[[tls.certificates]]\ncert = 'a'\nkey = 'b'\nocsp = 'c'\n\
             [dns]\nservers = ['::1', '127.0.0.1:54']\ntimeout = '99ms'\nattempts = 3\ncache = 7\n\
             [limits]\nsession_timeout = '0s'\nconnections_per_ip = 1\nconnections_per_network = 2\n\
             connection_rate_per_ip = 3\nconnection_rate_per_network = 4\nmessages_per_ip = 5\n\
             messages_per_network = 6\nrecipients_per_ip = 7\nrecipients_per_network = 8\nbytes_per_ip = 9\n\
             bytes_per_network = '1GiB'\nnetwork_v4 = 20\nnetwork_v6 = 56\nconnections_soft = 100\n\
             banner_delay = '0s'\nmessages_per_session = 11\nunknown_recipients_per_session = 0\n\
             commands_without_progress = 12",
        );
        check(
            "[bans]\nallow = ['192.0.2.0/24']\nnftables = ' inet  a b c'\n[[bans.rule]]\noffence = 'limit'\ncount = 5\n\
             window = '90s'\nduration = '8d'\n[[bans.rule]]\noffence = 'pregreet'\ncount = 1\nwindow = '1s'\n\
             duration = '1m'\n[limits]\nbytes_per_ip = 5\n\
             [screen]\npregreet_wait = '1500ms'\ndeadline = '1s'\nscore_tarpit = 1\nscore_greylist = 2\n\
             score_reject = 3\ntarpit_delay = '1ms'\nweight_pregreet = 1\nweight_helo_malformed = 2\n\
             weight_helo_own_name = 3\nweight_helo_literal = 4\nweight_helo_unresolved = 5\nweight_rdns_missing = 6\n\
             weight_rdns_unconfirmed = -7\n[[screen.list]]\nzone = 'a.b'\nweight = -1\n\
             answers = ['127.0.0.2', '127.0.0.3-127.0.1.0']\n[[screen.list]]\nzone = 'c.d'\nweight = 2\n\
             [greylist]\nmode = 'suspicious'\ndelay = '1s'\nwindow = '2s'\nlifetime = '3s'\nnetwork_passes = 4\n\
             entries = 500\n[[domain]]\nname = 'a.org'\nrecipients = { file = 'ä\"' }\nsubaddress = ''\n\
             tls_required = true\ntarget = 'local'\n[explain]\nmemory = 0\n[admin]\nsocket = '/run/a \"b'\n\
             operators = ['anna', '@adm']\nreaders = ['@monitoring']\naudit = ''",
        );
    }

    const ROUTES: &str = "[spool]\nspace_soft = 0\nspace_hard = '9MiB'\n[queue]\nretry_jitter = 0\nexpire_after = '2d'\n\
         delay_notice = '0s'\ndead_letters_keep = '1d'\ndead_letters_max = 7\ndefault_target = 'c'\n\
         next_hop_timeout = '7s'\n\
         [[domain]]\nname = 'a.org'\ntarget = ['a', 'b']\ndurability = 'memory'\npriority = 'low'\n\
         [[route]]\nrecipient = '*\"@a.org'\ntarget = 'c'\ndurability = 'next-hop'\npriority = 'high'\n\
         [[route]]\nrecipient = ['a@b', 'c@d']\ntarget = 'a'\n\
         [[target]]\nname = 'a'\nkind = 'file'\npath = 'ä \"'\n\
         [[target]]\nname = 'b'\nkind = 'lmtp'\nhosts = ['unix:/run/a', '[::1] weight=0']\ntls = 'off'\n\
         [[target]]\nname = 'c'\nkind = 'smtp'\nhosts = ['c:26 weight=9']\ntls = 'verified'\ntls_ca = 'a'\n\
         tls_name = 'b'\ntls_cert = 'c'\ntls_key = 'd'\nmessages_per_connection = 5\nidle_timeout = '0s'\n\
         connect_timeout = '1s'\ncommand_timeout = '2s'\ndata_timeout = '3s'\nconcurrency = 4\nrate = 5\n\
         breaker_failures = 0\nbreaker_pause = '6s'\nbreaker_pause_max = '7s'\n\
         [[target]]\nname = 'd'\nkind = 'webhook'\nurl = 'https://d/?a=b'\nformat = 'multipart'\nsecret_file = 's'\n\
         ca = 'a'\ncert = 'b'\nkey = 'c'\ntimeout = '8s'\nheaders = { b = 'secret \"', 'a.c' = '' }\n";

    #[test]
    fn what_delivers_reads_back() {
        check(ROUTES);
        check("[[target]]\nname = 'local'\nkind = 'webhook'\nurl = 'http://a'");
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let rendered = Config::parse("f", ROUTES).expect("the text has no fault").render();
        assert!(rendered.contains("headers = { b = \"***\", \"a.c\" = \"***\" }"), "{rendered}");
        assert!(rendered.contains("url = \"https://d/?***\""), "{rendered}");
        assert!(!rendered.contains("secret \\\""), "{rendered}");
        assert!(Config::parse("rendered", &rendered).is_ok(), "{rendered}");
        let key = "0123456789abcdefghij012345";
        let text = format!(
            "[[screen.list]]\nzone = '{key}.zen.example.org'\nweight = 5\n[telemetry]\nendpoint = 'https://o.example/{key}'"
        );
        let config = Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"));
        let rendered = config.render();
        assert!(!rendered.contains(key), "{rendered}");
        assert!(rendered.contains("zone = \"***.zen.example.org\""), "{rendered}");
        assert!(config.render_in_full().matches(key).count() == 2, "nothing is lost where it is compared");
    }
}
