//! Reports on deliveries (DSN), read by Python's mail parser.

use super::maildir::Message;
use super::programs::{program, run};
use std::collections::BTreeMap;
use std::process::Command;

/// Reads a report from a file and writes what a program makes of it as JSON.
const READ: &str = "
import email, email.policy, json, sys
m = email.message_from_bytes(open(sys.argv[1], 'rb').read(), policy=email.policy.default)
fields = lambda message: [(name, str(value)) for name, value in message.items()]
defects = [repr(d) for part in m.walk() for d in part.defects]
assert not defects and m.get_content_type() == 'multipart/report', (defects, m.get_content_type())
assert m['content-type'].params['report-type'] == 'delivery-status'
words, status, returned = m.get_payload()
json.dump({
    'header': fields(m), 'words': words.get_content(), 'status': status.get_content_type(),
    'blocks': [fields(block) for block in status.get_payload()], 'returned': returned.get_content_type(),
}, sys.stdout)
";

#[derive(serde::Deserialize)]
struct Read {
    header: Vec<(String, String)>,
    words: String,
    status: String,
    blocks: Vec<Vec<(String, String)>>,
    returned: String,
}

/// A report.
pub(crate) struct Report {
    /// As it was delivered.
    pub(crate) message: Message,
    header: Vec<(String, String)>,
    /// What it tells a person.
    pub(crate) words: String,
    /// Fields of the message that it is about, without regard to the case of their names: they are in lower case.
    pub(crate) about: BTreeMap<String, String>,
    /// The same of each recipient.
    pub(crate) recipients: Vec<BTreeMap<String, String>>,
    /// The media type of what is returned.
    pub(crate) returned: String,
}

impl Report {
    /// Reads a report; anything that a mail program would stumble over is a failure.
    #[track_caller]
    pub(crate) fn read(message: Message) -> Self {
        let mut command = Command::new(program("python3", "python3"));
        let read = run(command.arg("-c").arg(READ).arg(&message.path), "").ok().out;
        let Read { header, words, status, blocks, returned } = serde_json::from_str(&read).expect("JSON");
        assert_eq!(status, "message/delivery-status");
        let block = |fields: Vec<(String, String)>| {
            fields.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect::<BTreeMap<_, _>>()
        };
        let mut blocks = blocks.into_iter().map(block).collect::<Vec<_>>();
        let about = blocks.remove(0);
        let report = Self { message, header, words, about, recipients: blocks, returned };
        // RFC 3461 section 6.1, RFC 3834 section 5.
        assert_eq!(report.field("Return-Path"), "<>");
        assert_eq!(report.field("Auto-Submitted"), "auto-replied");
        report
    }

    /// A field of its own header section that must be there once.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> &str {
        let mut all = self.header.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        let (_, value) = all.next().unwrap_or_else(|| panic!("no {name} in {:?}", self.header));
        assert!(all.next().is_none(), "{name} twice in {:?}", self.header);
        value
    }

    /// What it says of a recipient, who must be in it.
    #[track_caller]
    pub(crate) fn of(&self, address: &str) -> &BTreeMap<String, String> {
        let wanted = format!("rfc822; {address}");
        let found = self.recipients.iter().find(|fields| fields["final-recipient"] == wanted);
        found.unwrap_or_else(|| panic!("nothing about {address} in {:?}", self.recipients))
    }

    /// Fails unless it says this of a recipient: action, status, and words in the diagnostic.
    #[track_caller]
    pub(crate) fn says(&self, address: &str, action: &str, status: &str, diagnostic: &str) {
        let of = self.of(address);
        assert_eq!((of["action"].as_str(), of["status"].as_str()), (action, status), "{of:?}");
        let told = of.get("diagnostic-code").map_or("", String::as_str);
        assert!(told.contains(diagnostic), "no {diagnostic:?} in {of:?}");
    }

    /// Whether these bytes are in it.
    pub(crate) fn contains(&self, bytes: &[u8]) -> bool {
        self.message.bytes.windows(bytes.len()).any(|window| window == bytes)
    }
}
