//! The options of the commands that have the running server do something: reload, canary, drain, upgrade, log levels.

use super::{RunningServer, ViewOptions};
use clap::{Args, Subcommand};
use ringpost_admin::api::LogLevelsView;
use ringpost_base::Span;
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct ReloadOptions {
    /// Has this core alone go by the new config, for a while: it is taken back by itself if the core then does worse than the
    /// others, and put in force everywhere if not. CORE is the number of a CPU, as in cores.use.
    #[arg(long, value_name = "CORE")]
    pub(crate) canary: Option<usize>,
    /// For how long.
    #[arg(long = "for", value_name = "TIME", default_value = "5m", requires = "canary", value_parser = some_time)]
    pub(crate) span: Span,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Subcommand)]
pub(crate) enum CanaryCommand {
    /// Tells how the core with the new config does beside the others; or how it came out the last time.
    Show(ViewOptions),
    /// Takes the new config back, from the core that has it.
    Stop(RunningServer),
}

#[derive(Args)]
pub(crate) struct DrainOptions {
    /// Goes on delivering what is in the queue, for at most so long. Without it what is left stays in the spool for the next
    /// start.
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    pub(crate) queue: Option<Span>,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct UpgradeOptions {
    /// The binary to go on with, which only root and the server's own user may name. Without it the file is taken that the
    /// running server was started from, as it is now.
    #[arg(long, value_name = "PATH")]
    pub(crate) binary: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Subcommand)]
pub(crate) enum LogCommand {
    /// Tells from which level on the running server logs, and where it differs by module.
    Show(ViewOptions),
    /// Changes levels until the next restart, a reload that changes the levels of the config, or `ringpost log reset`; what is
    /// not named stays.
    Set(LogSetOptions),
    /// Goes back to the levels of the config.
    Reset(RunningServer),
}

#[derive(Args)]
pub(crate) struct LogSetOptions {
    /// The level of everything that no module says otherwise of.
    #[arg(long, value_name = "LEVEL", value_parser = LogLevelsView::LEVELS)]
    pub(crate) level: Option<String>,
    /// The level of a module, such as serve=debug, or serve::lookups=trace.
    #[arg(value_name = "MODULE=LEVEL", required_unless_present = "level", value_parser = module_level)]
    pub(crate) modules: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

fn some_time(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error: ringpost_base::ParseSpanError| error.to_string())?;
    if span.0.is_zero() { Err("that is no time at all".to_owned()) } else { Ok(span) }
}

fn module_level(text: &str) -> Result<(String, String), String> {
    let Some((module, level)) = text.split_once('=') else {
        return Err("not a module and its level: write MODULE=LEVEL, such as serve=debug".to_owned());
    };
    let in_name = |character: char| character.is_ascii_alphanumeric() || "_:".contains(character);
    if module.is_empty() || !module.chars().all(in_name) {
        return Err(format!("{module:?} is not the name of a module, such as serve or serve::lookups"));
    }
    if !LogLevelsView::LEVELS.contains(&level) {
        return Err(format!("{level:?} is not a level: there are {}", LogLevelsView::LEVELS.join(", ")));
    }
    Ok((module.to_owned(), level.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::super::tests::parse;
    use super::*;

    #[test]
    fn what_is_wrong_in_itself_is_told_in_words() {
        for (line, words) in [
            ("ringpost reload --for 5m", "--canary <CORE>"),
            ("ringpost reload --canary one", "invalid digit"),
            ("ringpost reload --canary 1 --for 0s", "no time at all"),
            ("ringpost drain --queue 10", "not a duration"),
            ("ringpost log set", "<MODULE=LEVEL>"),
            ("ringpost log set --level loud", "[possible values: error, warn"),
            ("ringpost log set serve", "MODULE=LEVEL"),
            ("ringpost log set serve=loud", "not a level"),
            ("ringpost log set =debug", "not the name of a module"),
            ("ringpost log set se.rve=debug", "not the name of a module"),
            ("ringpost canary", "Usage"),
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line}: no error"));
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn a_canary_has_five_minutes_unless_said_otherwise() {
        for (line, core, seconds) in [
            ("ringpost reload", None, 300),
            ("ringpost reload --canary 3", Some(3), 300),
            ("ringpost reload --canary 3 --for 90s", Some(3), 90),
        ] {
            let Ok(Command::Reload(options)) = parse(line) else { panic!("{line}") };
            assert_eq!((options.canary, options.span), (core, Span::seconds(seconds)), "{line}");
        }
    }

    #[test]
    fn levels_of_modules() {
        let Ok(Command::Log(LogCommand::Set(options))) =
            parse("ringpost log set --level warn serve=debug serve::lookups=trace")
        else {
            panic!("not levels")
        };
        let modules: Vec<_> = options.modules.iter().map(|(module, level)| (module.as_str(), level.as_str())).collect();
        assert_eq!(options.level.as_deref(), Some("warn"));
        assert_eq!(modules, [("serve", "debug"), ("serve::lookups", "trace")]);
    }
}
