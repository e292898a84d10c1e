//! The config file: any text is answered, with a config that renders to itself or with errors that have a place in it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_config::Config;

fuzz_target!(|text: &str| match Config::parse("file", text) {
    Ok(config) => {
        let rendered = config.render();
        let again = Config::parse("rendered", &rendered).unwrap_or_else(|errors| panic!("{errors:#}\n{rendered}"));
        assert_eq!(again, config, "{rendered}");
        assert_eq!(again.render(), rendered);
    }
    Err(errors) => {
        let lines = text.lines().count() + 1;
        assert!(errors.iter().count() > 0);
        for error in errors.iter() {
            assert!((1..=lines).contains(&error.line), "{error:#}");
        }
        // Nothing of the file reaches a terminal as a control sequence, nor makes a second line of an error.
        let (short, long) = (errors.to_string(), format!("{errors:#}"));
        assert_eq!(short.split('\n').count(), errors.len(), "{short:?}");
        assert_eq!(short.chars().find(|c| c.is_control() && *c != '\n'), None, "{short:?}");
        assert_eq!(long.chars().find(|c| c.is_control() && !"\n\t".contains(*c)), None, "{long:?}");
    }
});
