//! The command line.
//!
//! What is wrong in itself (a network, a duration, an id) is refused here, before anybody is asked, with status 2.

mod generate;
mod observe;
mod operate;
mod queue;

pub(crate) use generate::{CompletionsOptions, ManOptions};
pub(crate) use observe::{AuditOptions, ProfileOptions, SessionsOptions, TopOptions, ViewOptions};
pub(crate) use operate::{CanaryCommand, DrainOptions, LogCommand, LogSetOptions, ReloadOptions, UpgradeOptions};
pub(crate) use queue::{
    QueueCommand, QueueDropOptions, QueueExportOptions, QueueListOptions, QueueOrderOptions, QueueShowOptions,
    QueueStatusOptions, QueueVerifyOptions, Selection,
};

use clap::{Args, Parser, Subcommand};
use ringpost_base::{Network, SessionId, Span, SpoolId};
use std::path::PathBuf;

/// A mail exchanger for bare-metal Linux: one io_uring engine per core, durable before 250.
#[derive(Parser)]
#[command(name = "ringpost", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Runs the server in the foreground until SIGTERM or SIGINT.
    Serve(ConfigFile),
    /// Checks a config file and reports every error with its place. Exits 1 if there is one.
    Check(ConfigFile),
    /// Looks at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Tells the running server whom to shut out.
    #[command(subcommand)]
    Ban(BanCommand),
    /// Tells what the running server decided in a session, by which rule and from what, as far back as it remembers.
    Explain(ExplainOptions),
    /// Has the running server read its config file again, without a session lost.
    Reload(ReloadOptions),
    /// Looks at the core that tries a new config alone, or has it stop.
    #[command(subcommand)]
    Canary(CanaryCommand),
    /// Has the running server take no more mail, end its sessions, and end itself.
    Drain(DrainOptions),
    /// Has another process, of the same binary or a new one, take over from the running server; no connection is refused
    /// and no mail is lost. Waits until it serves.
    Upgrade(UpgradeOptions),
    /// Looks at the mail that waits in the running server, and does something to it.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Tells how the running server is: what is wrong with it, what to do about it, and its shards in numbers.
    #[command(after_help = observe::STATUS_EXITS)]
    Status(ViewOptions),
    /// Shows the running server's cores at work, again and again.
    ///
    /// On a terminal it fills the screen and takes keys. Elsewhere, or with --once or --count, frames are printed one after
    /// the other.
    #[command(after_help = observe::TOP_KEYS)]
    Top(TopOptions),
    /// Lists the running server's open sessions.
    Sessions(SessionsOptions),
    /// Tells all numbers of the running server's shards.
    Shards(ViewOptions),
    /// Tells the limits in force, how often each was met, and how much of it is used.
    Limits(ViewOptions),
    /// Looks at the levels of the running server's log, or changes them.
    #[command(subcommand)]
    Log(LogCommand),
    /// Finds out what a shard of the running server spends its time on, and draws it as a flame graph.
    Profile(ProfileOptions),
    /// Tells who had the running server changed: what, when, from what and to what.
    Audit(AuditOptions),
    /// Copies the state directory, queued mail included, of a server that runs or is stopped. Made again to the same place, it
    /// copies what has changed.
    Backup(BackupOptions),
    /// Writes what a backup holds into a state directory without a spool.
    Restore(RestoreOptions),
    /// Looks into the spool's files, without a server.
    #[command(subcommand)]
    Spool(SpoolCommand),
    /// Writes the man pages of all commands.
    Man(ManOptions),
    /// Prints what a shell needs to complete these commands.
    ///
    /// For bash, in a file of /usr/share/bash-completion/completions; for zsh, in a file _ringpost of a directory in fpath;
    /// for fish, in a file of /usr/share/fish/vendor_completions.d.
    Completions(CompletionsOptions),
    /// Reads the raw addresses of a crash from standard input and writes what they mean. The crash handler runs it.
    #[command(hide = true)]
    CrashReport,
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the effective configuration as TOML: every key with its value, defaults filled in.
    Show(ConfigShowOptions),
}

#[derive(Subcommand)]
pub(crate) enum BanCommand {
    /// Bans an address or a network, on every shard at once. Open sessions of it end.
    Add(BanAddOptions),
    /// Lifts a ban.
    Rm(BanRmOptions),
    /// Lists the bans in force.
    List(BanListOptions),
}

#[derive(Subcommand)]
pub(crate) enum SpoolCommand {
    /// Reads every record and body file of a spool and holds it against its checksum. Changes nothing. Exits 1 if something is
    /// damaged.
    Check(SpoolCheckOptions),
}

#[derive(Clone, Args)]
pub(crate) struct ConfigFile {
    /// The config file. Without one the embedded defaults are used: a server for 127.0.0.1 and the domain example.com.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Which of perhaps several servers of a machine.
#[derive(Args)]
pub(crate) struct RunningServer {
    #[command(flatten)]
    pub(crate) config: ConfigFile,
    /// The server's admin socket. Without it the socket is where the config says.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ConfigShowOptions {
    /// Asks the running server for the config that is in force there. Secrets are left out.
    #[arg(long)]
    pub(crate) running: bool,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
    /// The server's admin socket. Without it the socket is where the config says.
    #[arg(long, value_name = "PATH", requires = "running")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct BanAddOptions {
    /// The address or network, such as 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32.
    pub(crate) network: Network,
    /// For how long, such as 30m, 12h or 7d. Without it: for good.
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub(crate) ttl: Option<Span>,
    /// Why, in words for those who see the list later.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct BanRmOptions {
    /// The address or network, as it was banned.
    pub(crate) network: Network,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct BanListOptions {
    /// Prints JSON, as the server sends it.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct ExplainOptions {
    /// The id of a session, as it is in the banner and at the end of refusals, or of a message, as it is in the 250.
    #[arg(value_name = "ID", value_parser = id)]
    pub(crate) id: String,
    /// Prints JSON, as the server sends it.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct BackupOptions {
    /// The backup: a directory that does not exist yet, or an earlier backup.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

#[derive(Args)]
pub(crate) struct RestoreOptions {
    /// The backup.
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

#[derive(Args)]
pub(crate) struct SpoolCheckOptions {
    /// A spool's directory, with directories shard-0000 and so on in it. Without it the spool is where the config says.
    #[arg(value_name = "DIR", conflicts_with = "config")]
    pub(crate) directory: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

fn ttl(text: &str) -> Result<Span, String> {
    let ttl: Span = text.parse().map_err(|error: ringpost_base::ParseSpanError| error.to_string())?;
    if ttl.0.is_zero() { Err("a ban of no duration bans nobody".to_owned()) } else { Ok(ttl) }
}

/// An id as ids are printed; brackets that were copied along with it from a reply or a header are no part of it.
fn id(text: &str) -> Result<String, String> {
    let bare = text.trim().trim_matches(['[', ']', '<', '>']);
    let session = bare.parse::<SessionId>().map(|id| id.to_string());
    let either = session.or_else(|_| bare.parse::<SpoolId>().map(|id| id.to_string()));
    either.map_err(|_| {
        format!(
            "not an id: a session's has {} letters and digits, a message's {}, as printed in replies and log lines",
            SessionId::TEXT_LEN,
            SpoolId::TEXT_LEN
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// What a command line asks for.
    pub(super) fn parse(line: &str) -> Result<Command, String> {
        let arguments = Arguments::try_parse_from(line.split(' '));
        arguments.map(|arguments| arguments.command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_is_wrong_in_itself_is_told_in_words() {
        for (line, words) in [
            ("ringpost ban add 192.0.2.1/24", "the network is 192.0.2.0/24"),
            ("ringpost ban add example.org", "not an address or network"),
            ("ringpost ban add 192.0.2.1 --ttl 1hour", "not a duration"),
            ("ringpost ban add 192.0.2.1 --ttl 0s", "no duration"),
            ("ringpost ban rm", "<NETWORK>"),
            ("ringpost explain 6P01GGM06A0F", "13 letters and digits"),
            ("ringpost explain", "<ID>"),
            ("ringpost ban", "Usage"),
            ("ringpost backup", "--to <DIR>"),
            ("ringpost restore", "--from <DIR>"),
            ("ringpost spool check /a --config b", "cannot be used with"),
            ("ringpost config show --socket /run/a.sock", "--running"),
            ("ringpost sessions --client example.org", "not an address or network"),
            ("ringpost sessions --limit 0", "1..=1000"),
            ("ringpost top --interval 10ms", "from 100ms to 1h"),
            ("ringpost top --once --count 2", "cannot be used with"),
            ("ringpost profile --seconds 61 --to a.svg", "1..=60"),
            ("ringpost profile", "--to <FILE>"),
            ("ringpost completions tcsh", "[possible values: bash"),
            ("ringpost man", "--to <DIR>"),
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line}: no error"));
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn ids_are_taken_as_they_were_copied() {
        for text in ["6P01GGM06A0FQ", "[6P01GGM06A0FQ]", " 6p01ggm06a0fq", "<6P01GGM06A0FQ>"] {
            assert_eq!(id(text).as_deref(), Ok("6P01GGM06A0FQ"), "{text}");
        }
        assert_eq!(id("01jd4vxk2q000000020000000a").as_deref(), Ok("01JD4VXK2Q000000020000000A"));
    }

    #[test]
    fn the_options_of_a_ban() {
        let line = "ringpost ban add 2001:db8::/32 --ttl 12h --reason harvest --socket /run/a.sock";
        let Ok(Command::Ban(BanCommand::Add(options))) = parse(line) else { panic!("not a ban") };
        assert_eq!(options.network.to_string(), "2001:db8::/32");
        assert_eq!((options.ttl, options.reason.as_str()), (Some(Span::seconds(43_200)), "harvest"));
        assert_eq!(options.server.socket.as_deref(), Some("/run/a.sock".as_ref()));
    }
}
