//! `ringpost log`: from which level on the running server logs.

use super::table::{Side, draw};
use super::words::plain;
use super::{print, print_json};
use crate::cli::{LogCommand, LogSetOptions};
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::LogLevelsView;

const LEVELS: &str = "/api/v1/log/levels";

pub(crate) fn log(command: &LogCommand) -> Result<()> {
    match command {
        LogCommand::Show(options) => {
            let client = Client::find(&options.server)?;
            if options.json {
                return print_json(&client, LEVELS);
            }
            print(&report(&client.get(LEVELS)?))
        }
        LogCommand::Set(options) => {
            let client = Client::find(&options.server)?;
            let wanted = changed(client.get(LEVELS)?, options);
            print(&report(&client.put(LEVELS, &wanted)?))
        }
        LogCommand::Reset(server) => print(&report(&Client::find(server)?.delete(LEVELS)?)),
    }
}

/// The levels as they are to be: what is not named stays.
fn changed(mut levels: LogLevelsView, options: &LogSetOptions) -> LogLevelsView {
    if let Some(level) = &options.level {
        levels.level.clone_from(level);
    }
    levels.modules.extend(options.modules.iter().cloned());
    LogLevelsView { config: false, ..levels }
}

fn report(levels: &LogLevelsView) -> String {
    let whose = if levels.config {
        "as the config says"
    } else {
        "until a restart, a reload that changes the levels of the config, or `ringpost log reset`"
    };
    let rows: Vec<_> =
        levels.modules.iter().map(|(module, level)| vec![format!("  {}", plain(module)), plain(level)]).collect();
    let modules = draw(&[("", Side::Left), ("", Side::Left)], &rows);
    format!("level {}, {whose}\n{modules}", plain(&levels.level))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{ConfigFile, RunningServer};

    fn levels(level: &str, modules: &[(&str, &str)], config: bool) -> LogLevelsView {
        LogLevelsView { level: level.to_owned(), modules: modules.iter().map(owned).collect(), config }
    }

    fn owned((module, level): &(&str, &str)) -> (String, String) {
        ((*module).to_owned(), (*level).to_owned())
    }

    #[test]
    fn levels_in_words() {
        assert_eq!(report(&levels("info", &[], true)), "level info, as the config says\n");
        assert_eq!(
            report(&levels("warn", &[("serve", "debug"), ("serve::lookups", "trace")], false)),
            "level warn, until a restart, a reload that changes the levels of the config, or `ringpost log reset`\n  serve           debug\n  serve::lookups  trace\n"
        );
    }

    #[test]
    fn what_is_not_named_stays() {
        let check = |level: Option<&str>, modules: &[(&str, &str)], expected: LogLevelsView| {
            let server = RunningServer { config: ConfigFile { config: None }, socket: None };
            let options =
                LogSetOptions { level: level.map(str::to_owned), modules: modules.iter().map(owned).collect(), server };
            assert_eq!(changed(levels("info", &[("net", "warn")], true), &options), expected);
        };
        check(Some("warn"), &[], levels("warn", &[("net", "warn")], false));
        check(None, &[("net", "trace")], levels("info", &[("net", "trace")], false));
        check(None, &[("serve", "debug")], levels("info", &[("net", "warn"), ("serve", "debug")], false));
    }
}
