//! Who the messages go to: the templates of `--rcpt`, filled with a running number.
//!
//! The recipients of one message are neighbours in one long round through all templates and numbers, so that a run
//! spreads evenly over them. A choice that would name a recipient twice in one message is refused.

use anyhow::{Result, ensure};

use crate::args::{MailArgs, is_plain};

/// The recipients of all messages of a run.
#[derive(Debug)]
pub(crate) struct Recipients {
    templates: Vec<Template>,
    spread: u64,
    per_message: u64,
}

#[derive(Debug)]
struct Template {
    before: String,
    /// What follows `{n}`; `None` if there is no `{n}`.
    after: Option<String>,
}

impl Recipients {
    pub(crate) fn new(mail: &MailArgs) -> Result<Self> {
        let mut templates = Vec::with_capacity(mail.rcpt.len());
        for text in &mail.rcpt {
            ensure!(!text.is_empty() && is_plain(text), "--rcpt '{text}' is not an address");
            templates.push(match text.split_once("{n}") {
                Some((before, after)) => Template { before: before.to_owned(), after: Some(after.to_owned()) },
                None => Template { before: text.clone(), after: None },
            });
        }
        let numbered = templates.iter().all(|template| template.after.is_some());
        let count = templates.len() as u64;
        let distinct = if numbered { count * u64::from(mail.rcpt_spread) } else { count };
        ensure!(
            u64::from(mail.recipients) <= distinct,
            "--recipients {} would name one recipient twice in a message: --rcpt and --rcpt-spread give only {distinct}",
            mail.recipients
        );
        Ok(Self { templates, spread: u64::from(mail.rcpt_spread), per_message: u64::from(mail.recipients) })
    }

    /// How many recipients a message has.
    pub(crate) fn per_message(&self) -> u64 {
        self.per_message
    }

    /// Appends the address of one recipient of the message with this sequence number.
    pub(crate) fn write(&self, out: &mut Vec<u8>, sequence: u64, index: u64) {
        let turn = sequence.wrapping_mul(self.per_message).wrapping_add(index);
        let count = self.templates.len() as u64;
        let template = &self.templates[(turn % count) as usize];
        out.extend_from_slice(template.before.as_bytes());
        if let Some(after) = &template.after {
            write_number(out, turn / count % self.spread);
            out.extend_from_slice(after.as_bytes());
        }
    }
}

/// Appends a number in decimal.
pub(crate) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    fn recipients(options: &[&str]) -> Result<Recipients> {
        let cli = Cli::try_parse_from([&["ringpost-load"], options].concat())?;
        Recipients::new(&cli.run.mail)
    }

    fn of_message(recipients: &Recipients, sequence: u64) -> String {
        let mut out = Vec::new();
        for index in 0..recipients.per_message() {
            recipients.write(&mut out, sequence, index);
            out.push(b' ');
        }
        String::from_utf8_lossy(&out).trim_end().to_owned()
    }

    #[test]
    fn numbers_run_round() {
        let recipients = recipients(&["--rcpt-spread", "3", "--recipients", "2"]).expect("valid");
        assert_eq!(of_message(&recipients, 0), "user0@example.com user1@example.com");
        assert_eq!(of_message(&recipients, 1), "user2@example.com user0@example.com");
    }

    #[test]
    fn templates_take_turns() {
        let recipients = recipients(&["--rcpt", "a{n}@x", "--rcpt", "b{n}@y", "--rcpt-spread", "2"]).expect("valid");
        let all: Vec<_> = (0..5).map(|sequence| of_message(&recipients, sequence)).collect();
        assert_eq!(all, ["a0@x", "b0@y", "a1@x", "b1@y", "a0@x"]);
    }

    #[test]
    fn repeated_and_malformed_recipients_are_refused() {
        assert!(recipients(&["--rcpt", "a@x", "--recipients", "2"]).is_err());
        assert!(recipients(&["--rcpt-spread", "3", "--recipients", "4"]).is_err());
        assert!(recipients(&["--rcpt", "a@x>\r\nRSET"]).is_err());
        assert!(recipients(&["--rcpt", ""]).is_err());
    }

    #[test]
    fn numbers() {
        for number in [0, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(String::from_utf8_lossy(&out), number.to_string());
        }
    }
}
