//! `ringpost config show`: the config of a file, or the one that the running server goes by.

use super::print;
use super::words::plain;
use crate::check;
use crate::cli::{ConfigShowOptions, RunningServer};
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::ConfigView;

pub(crate) fn show_config(options: &ConfigShowOptions) -> Result<()> {
    if !options.running {
        return check::show(&options.config);
    }
    let server = RunningServer { config: options.config.clone(), socket: options.socket.clone() };
    print(&report(&Client::find(&server)?.get("/api/v1/config")?))
}

/// The config as TOML, whose first line says what it is.
fn report(config: &ConfigView) -> String {
    let file = config.file.as_deref().map_or("the embedded defaults".to_owned(), plain);
    let lines = config.toml.lines().map(|line| format!("{}\n", plain(line)));
    format!("# config {} of the running server, from {file}\n{}", config.epoch, lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_in_force_is_toml() {
        for (file, words) in [(Some("/etc/ringpost.toml"), "/etc/ringpost.toml"), (None, "the embedded defaults")] {
            let toml = "[server]\nhostname = \"mx.example.org\"\n".to_owned();
            let view = ConfigView { epoch: 3, toml, file: file.map(str::to_owned) };
            assert_eq!(
                report(&view),
                format!("# config 3 of the running server, from {words}\n[server]\nhostname = \"mx.example.org\"\n")
            );
        }
    }
}
