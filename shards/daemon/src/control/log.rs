//! How much is logged, as the API has it.

use ringpost_admin::Refusal;
use ringpost_admin::api::LogLevelsView;
use ringpost_runtime::log::{Level, LogControl, LogLevels};

/// The levels in force.
pub(super) fn levels(log: &LogControl) -> LogLevelsView {
    let LogLevels { level, modules } = log.levels();
    let modules = modules.into_iter().map(|(name, level)| (name, word(level))).collect();
    LogLevelsView { level: word(level), modules, config: log.levels_are_configured() }
}

/// Logs by these levels, or by those of the config.
pub(super) fn set_levels(log: &LogControl, levels: Option<LogLevelsView>) -> Result<LogLevelsView, Refusal> {
    match levels {
        Some(LogLevelsView { level, modules, .. }) => {
            let modules = modules.into_iter().map(|(name, word)| Ok((name, of_word(&word)?)));
            let modules = modules.collect::<Result<Vec<_>, Refusal>>()?;
            log.set_levels(LogLevels { level: of_word(&level)?, modules });
        }
        None => log.reset_levels(),
    }
    Ok(self::levels(log))
}

fn word(level: Level) -> String {
    level.as_str().to_ascii_lowercase()
}

fn of_word(word: &str) -> Result<Level, Refusal> {
    word.parse().map_err(|_| Refusal::invalid(format!("{word:?} is not a level")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_api_are_levels() {
        for name in LogLevelsView::LEVELS {
            assert_eq!(of_word(name).map(word), Ok(name.to_owned()));
        }
        assert!(of_word("loud").is_err());
    }
}
