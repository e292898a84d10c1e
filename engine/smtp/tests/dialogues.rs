//! SMTP dialogues as text files that a person can read: what the client sends, what the server answers, which messages
//! arrive. Each is run as written, octet by octet, and in as few pieces as TLS allows; all must come out the same.
//!
//! ```text
//! # a comment                          ---   (alone on a line) a new session begins
//! @start connect | ehlo | mail | rcpt  how far the session is when the dialogue begins; `ehlo` if nothing is said
//! @protocol smtp | lmtp                in LMTP, the session starts with LHLO
//! @tls off | starttls | starttls-required | implicit
//! @tls-required                        the server requires TLS, whatever the listener says
//! @trust xclient | xforward            what the peer may say of other clients
//! @option NAME VALUE                   an option of the session by its name in `Options`
//! @refuse-mail ADDRESS CODE            @refuse-rcpt ADDRESS CODE
//! @refuse-data CODE                    @refuse-message CODE
//! @refuse-client CODE                  @refuse-forward CODE
//!
//! c: text                              the client sends a line; lines with no `s:` between them go out together
//! c| a\r\n\t\0\\\xFF{x*600}            the client sends just these octets; the last form repeats
//! s: 250 2.1.0 *                       the server sends a line; `*` is any text, the session's id is left out
//! s.. 250 ENHANCEDSTATUSCODES          the server sends any lines, and last such a one
//! s= 250 2.0.0 ok [ID]                 the same, with the session's id where it says ID
//! @silence                             the server says nothing to what was sent
//! @presented name=value name=value     what the client has said of another client by XCLIENT or XFORWARD
//! @reload NAME VALUE                   the operator changes an option
//! @handshake                           TLS begins; what was sent in clear and not read is lost
//! @message <from> -> <to> <to>[notify=delay][orcpt=x] 8bitmime smtputf8 size=N ret=full
//! > a line of the message              >| octets of it, as with c|
//! @end open | closed | quit            how the session stands at the end
//! ```

mod driver;
mod script;

use driver::{Driver, Message, Record};
use script::{Ending, Line, Script, Session};

/// How much the client sends at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    AsWritten,
    Octets,
    Whole,
}

fn check(text: &str) {
    for session in Script::parse(text).sessions {
        let as_written = play(&session, Pieces::AsWritten);
        for pieces in [Pieces::Octets, Pieces::Whole] {
            assert_eq!(play(&session, pieces), as_written, "line {}: {pieces:?}", session.line);
        }
    }
}

/// Plays one session. What the server says is compared with the dialogue only as written: the other ways are compared
/// with that one.
fn play(session: &Session, pieces: Pieces) -> Record {
    let mut player = Player::new(session, pieces);
    for (number, line) in &session.lines {
        if !matches!(line, Line::Send(_)) && pieces != Pieces::Whole {
            player.send();
        }
        match line {
            Line::Send(octets) => player.unsent.extend_from_slice(octets),
            Line::Reload(options) => {
                player.send();
                player.driver.reload(options.clone());
            }
            Line::Expect(_)
            | Line::ExpectLast(_)
            | Line::ExpectWithId(_)
            | Line::Silence
            | Line::Message(_)
            | Line::Presented(_)
                if pieces != Pieces::AsWritten => {}
            Line::Expect(pattern) => player.expect(*number, pattern),
            Line::ExpectLast(pattern) => while !player.is_next(*number, pattern) {},
            Line::ExpectWithId(pattern) => player.expect_with_id(*number, pattern),
            Line::Presented(text) => player.expect_presented(*number, text),
            Line::Silence => player.expect_silence(*number),
            Line::Message(message) => player.expect_message(*number, message),
            Line::Handshake => {
                player.send();
                player.driver.handshake();
            }
        }
    }
    player.send();
    player.finish(session)
}

struct Player {
    driver: Driver,
    pieces: Pieces,
    unsent: Vec<u8>,
    heard: usize,
    messages: usize,
    presented: usize,
    id: String,
}

impl Player {
    fn new(session: &Session, pieces: Pieces) -> Self {
        let id = session.setup.id.to_string();
        let mut driver = Driver::new(session.setup.clone(), session.refusals.clone());
        let mut heard = 0;
        for line in session.start.lines() {
            driver.feed(line.as_bytes());
            driver.feed(b"\r\n");
            heard = driver.record().replies.len();
        }
        Self { driver, pieces, unsent: Vec::new(), heard, messages: 0, presented: 0, id }
    }

    fn send(&mut self) {
        let unsent = std::mem::take(&mut self.unsent);
        match self.pieces {
            Pieces::Octets => unsent.chunks(1).for_each(|octet| self.driver.feed(octet)),
            Pieces::AsWritten | Pieces::Whole => self.driver.feed(&unsent),
        }
    }

    fn unheard(&self) -> String {
        String::from_utf8_lossy(&self.driver.record().replies[self.heard..]).into_owned()
    }

    fn next_line(&mut self, number: usize, pattern: &str) -> String {
        let unheard = self.unheard();
        let Some((line, _)) = unheard.split_once("\r\n") else {
            panic!("line {number}: expected {pattern:?}, and the server said nothing");
        };
        self.heard += line.len() + 2;
        line.to_owned()
    }

    fn expect(&mut self, number: usize, pattern: &str) {
        let unheard = self.unheard();
        assert!(self.is_next(number, pattern), "line {number}: expected {pattern:?}, the server said {unheard:?}");
    }

    /// Takes the next line; says whether it is what `pattern` says.
    fn is_next(&mut self, number: usize, pattern: &str) -> bool {
        let line = self.next_line(number, pattern);
        matches(pattern, line.strip_suffix(&format!(" [{}]", self.id)).unwrap_or(&line))
    }

    fn expect_with_id(&mut self, number: usize, pattern: &str) {
        let line = self.next_line(number, pattern).replace(&self.id, "ID");
        assert!(matches(pattern, &line), "line {number}: expected {pattern:?}, the server said {line:?}");
    }

    fn expect_presented(&mut self, number: usize, want: &str) {
        let got = self.driver.record().presented.get(self.presented);
        assert_eq!(got.map(String::as_str), Some(want), "line {number}");
        self.presented += 1;
    }

    fn expect_silence(&self, number: usize) {
        assert_eq!(self.unheard(), "", "line {number}: expected nothing");
    }

    fn expect_message(&mut self, number: usize, want: &Message) {
        let got = self.driver.record().messages.get(self.messages);
        let got = got.unwrap_or_else(|| panic!("line {number}: no message was accepted here"));
        let text = |body: &[u8]| body.escape_ascii().to_string();
        assert_eq!(text(&got.body), text(&want.body), "line {number}");
        assert_eq!(got, want, "line {number}");
        self.messages += 1;
    }

    fn finish(self, session: &Session) -> Record {
        let line = session.line;
        if self.pieces == Pieces::AsWritten {
            assert_eq!(self.unheard(), "", "session of line {line}: the server said more");
            assert_eq!(self.driver.record().messages.len(), self.messages, "session of line {line}: more messages");
            assert_eq!(self.driver.record().presented.len(), self.presented, "session of line {line}: more presented");
        }
        let ending = match (self.driver.is_closed(), self.driver.record().has_quit) {
            (true, true) => Ending::Quit,
            (true, false) => Ending::Closed,
            (false, _) => Ending::Open,
        };
        assert_eq!(ending, session.end, "session of line {line}");
        assert!(!self.driver.is_handshaking(), "session of line {line}: a handshake is missing");
        self.driver.record().clone()
    }
}

/// Whether `text` is what `pattern` says, where `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    (0..=text.len()).any(|at| text.is_char_boundary(at) && matches(rest, &text[at..]))
}

/// A test for each dialogue, named after it.
macro_rules! dialogues {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(include_str!(concat!("dialogues/", stringify!($name), ".txt")));
        })*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

dialogues! {
    address_lengths
    address_literals
    auth_not_offered
    banner
    bdat
    bdat_after_failed_chunk
    bdat_after_last
    bdat_and_other_commands
    bdat_bad_sizes
    bdat_chunks
    bdat_dots
    bdat_empty_chunks
    bdat_forms
    bdat_huge
    bdat_mixed_with_data
    bdat_rcpt_between
    bdat_refused_by_policy
    bdat_smuggled_end
    bdat_split_line_end
    bdat_then_rset
    bdat_too_big
    bdat_without_final_newline
    bdat_without_message
    before_greeting
    binarymime
    binarymime_needs_bdat
    binarymime_smuggled_end
    binarymime_too_big
    blanks_in_commands
    broken_utf8
    commands_with_progress
    commands_without_progress
    commands_without_progress_and_refusals
    control_characters
    cross_protocol_http
    data
    data_commands_are_text
    data_dots
    data_empty
    data_long_lines
    data_not_stored
    data_octets
    data_refused_after_body
    data_refused_before_body
    data_takes_no_words
    data_too_big
    data_without_recipients
    dsn
    dsn_mail_refused_forms
    dsn_rcpt_refused_forms
    dsn_utf8_original_recipient
    ehlo
    ehlo_resets
    ehlo_without_name
    header_injection
    helo
    historic_commands
    limits
    line_ends_of_commands
    lmtp_bdat
    lmtp_data
    lmtp_data_refused
    lmtp_greeting
    lmtp_pipelining
    lmtp_smuggled_end_of_data
    lmtp_starttls
    lmtp_without_recipients
    mail_body
    mail_forms
    mail_refused_by_policy
    mail_refused_forms
    mail_size
    mail_smtputf8
    mail_twice
    mail_unknown_parameter
    messages_per_session
    noop
    nul
    null_sender
    overlong_lines
    overlong_lines_are_errors
    pipelined_data_without_recipients
    pipelined_nonsense
    pipelining
    pipelining_with_refusals
    postmaster
    proxy_signature_elsewhere
    proxy_unexpected
    proxy_unexpected_binary
    put_off_recipients
    quit
    quoted_local_parts
    rcpt_forms
    rcpt_needs_mail
    rcpt_refused_by_policy
    rcpt_refused_forms
    rcpt_refused_ones_do_not_count
    rcpt_too_many
    refusals_that_close
    reload
    reply_injection
    requiretls
    requiretls_without_tls
    rset
    session_ids
    smtputf8_rules
    smuggled_end_of_data_at_the_start
    smuggled_end_of_data_cr_dot_cr
    smuggled_end_of_data_cr_dot_crlf
    smuggled_end_of_data_cr_dot_lf
    smuggled_end_of_data_crlf_dot_cr
    smuggled_end_of_data_crlf_dot_lf
    smuggled_end_of_data_doubled
    smuggled_end_of_data_lf_dot_cr
    smuggled_end_of_data_lf_dot_crlf
    smuggled_end_of_data_lf_dot_lf
    smuggled_end_of_data_repaired
    smuggled_end_of_data_with_nul
    source_route
    starttls
    starttls_forgets
    starttls_injection
    starttls_refused
    starttls_required
    starttls_twice
    tls_required_by_the_domain
    tls_required_by_the_server
    tls_without_starttls
    too_many_errors
    too_many_parameters
    unknown_commands
    unknown_recipients
    vrfy_expn_help
    xclient
    xclient_client_refused
    xclient_denied
    xclient_during_message
    xclient_helo
    xclient_lmtp
    xclient_pipelined
    xclient_refused_forms
    xforward
    xforward_refused
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test looks for files that the list above leaves out")]
fn every_dialogue_is_listed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    for entry in std::fs::read_dir(folder).expect("the folder of dialogues") {
        let path = entry.expect("a file").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        assert!(NAMES.contains(&name), "{name} is not listed");
    }
    assert!(NAMES.is_sorted(), "the list is in order");
}

#[test]
fn patterns() {
    for (pattern, text, want) in [
        ("250 ok", "250 ok", true),
        ("250 ok", "250 okay", false),
        ("250 *", "250 ", true),
        ("*-*x", "250-abcx", true),
        ("*-*x", "250-abc", false),
        ("", "250", false),
    ] {
        assert_eq!(matches(pattern, text), want, "{pattern:?} {text:?}");
    }
}
