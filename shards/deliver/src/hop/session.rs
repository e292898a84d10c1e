//! One session with a server: a connection, the machine that speaks over it, and how long is waited for what.
//!
//! Nothing is waited for without a deadline, and a server that says something now and then does not put it off for ever.

use super::trouble::{BAD_CONNECTION, Trouble};
use ringpost_base::{Deadline, Span};
use ringpost_net::{ClientTls, Outbound, OutboundError};
use ringpost_runtime::{after, tick};
use ringpost_smtp::sender::{RecipientReply, Sender, SenderFault, SenderStep};
use std::rc::Rc;
use std::time::Duration;

/// Bytes read from a server at a time. What it says in answer to one message is mostly less.
const READ_MAX: usize = 16 << 10;

/// How many times over a server that goes on answering gets its time within one step: there is a reply for each
/// recipient, and together they may take longer than one.
const RENEWALS_MAX: u32 = 4;

/// How long the farewell may take. The connection is closed whether it is answered or not.
const QUIT_PATIENCE: Duration = Duration::from_secs(2);

/// How long is listened, after a server has closed in the middle of a message, for what it said before it did.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(1);

/// Output buffer that a waiting session may keep, in bytes. A large message leaves a larger one behind.
const OUT_KEPT_MAX: usize = 4 << 10;

/// Who is at the other end.
#[derive(Clone)]
pub(super) struct Peer {
    /// The number of the host among the hop's.
    pub(super) host: usize,
    /// Its name or address and its port, or its path; for the log.
    pub(super) label: Rc<str>,
    /// What reports call it; nothing for a socket of this machine.
    pub(super) name: Option<Rc<str>>,
    /// Whether it is on this machine: what goes there goes over no network.
    pub(super) local: bool,
}

/// A session with a server.
pub(super) struct Session {
    outbound: Outbound,
    pub(super) sender: Sender,
    pub(super) peer: Peer,
    /// What the server has said and the machine has not used.
    input: Vec<u8>,
    pub(super) out: Vec<u8>,
    /// Whether TLS is on and the server's certificate was right.
    pub(super) verified: bool,
    /// Messages that were begun on it.
    pub(super) messages: u32,
    /// Recipients of one message that the server is known to take, where it is known.
    pub(super) recipients_max: usize,
    /// Whether it has waited for this message: the server may have closed it meanwhile.
    pub(super) kept: bool,
}

impl Session {
    pub(super) fn new(outbound: Outbound, sender: Sender, peer: Peer) -> Self {
        Self {
            outbound,
            sender,
            peer,
            input: Vec::new(),
            out: Vec::new(),
            verified: false,
            messages: 0,
            recipients_max: usize::MAX,
            kept: false,
        }
    }

    /// Whether it can be used, as far as that can be seen without using it.
    pub(super) fn is_alive(&self) -> bool {
        self.input.is_empty() && self.outbound.is_alive()
    }

    /// Sends what is to be sent, and reads until the machine says what is next. `what` is waited for, in words.
    pub(super) async fn step(&mut self, what: &str, patience: Duration) -> Result<SenderStep, Trouble> {
        let end = tick().deadline(patience.saturating_mul(RENEWALS_MAX));
        let mut deadline = tick().deadline(patience);
        loop {
            let (used, step) = self.sender.advance(&self.input, &mut self.out);
            self.input.drain(..used);
            if used > 0 {
                deadline = tick().deadline(patience).min(end);
            }
            if step != SenderStep::Need {
                return Ok(step);
            }
            self.flush(patience).await?;
            self.read(what, patience, deadline).await?;
        }
    }

    async fn read(&mut self, what: &str, patience: Duration, deadline: Deadline) -> Result<(), Trouble> {
        let left = deadline.0.since(tick());
        match self.outbound.read(&mut self.input, READ_MAX, left).await {
            Ok(0) => Err(self.closed(&format!("closed the connection before {what}"))),
            Ok(_) => Ok(()),
            Err(OutboundError::Timeout { .. }) => {
                let text = format!("{}: no {what} within {}", self.peer.label, Span(patience));
                Err(Trouble::own(BAD_CONNECTION, &text))
            }
            Err(error) => Err(self.closed(&error.to_string())),
        }
    }

    /// Sends what is to be sent.
    pub(super) async fn flush(&mut self, patience: Duration) -> Result<(), Trouble> {
        if self.out.is_empty() {
            return Ok(());
        }
        let sent = self.outbound.write_all(&self.out, patience).await;
        self.out.clear();
        sent.map_err(|error| match error {
            OutboundError::Timeout { .. } => Trouble::own(BAD_CONNECTION, &format!("{}: {error}", self.peer.label)),
            error => self.closed(&error.to_string()),
        })
    }

    fn closed(&self, what: &str) -> Trouble {
        Trouble { closed: true, ..Trouble::own(BAD_CONNECTION, &format!("{}: {what}", self.peer.label)) }
    }

    /// Shakes hands, and greets anew.
    pub(super) async fn secure(
        &mut self,
        name: &str,
        tls: &ClientTls,
        patience: Duration,
    ) -> Result<(), OutboundError> {
        let facts = self.outbound.start_tls(name, tls, patience).await?;
        self.verified = facts.verified;
        self.sender.secured(&mut self.out);
        let (version, cipher, resumed) = (facts.version, facts.cipher, facts.resumed);
        tracing::debug!(host = &*self.peer.label, version, cipher, resumed, verified = facts.verified, "TLS");
        Ok(())
    }

    /// What has become of the recipients of a message whose connection is gone. A server that will not have a message says
    /// so and may close although it is still being sent to; what it said then has come and not been read yet.
    pub(super) async fn lost(&mut self) -> Vec<RecipientReply> {
        let end = tick().deadline(LAST_WORDS_PATIENCE);
        // Two reads: what comes after that is not about this message.
        for _ in 0..2 {
            let left = end.0.since(tick());
            match self.outbound.read(&mut self.input, READ_MAX, left).await {
                Ok(read) if read > 0 => {}
                _ => break,
            }
        }
        self.sender.lost(&self.input)
    }

    /// Why the machine has given the session up, if it has.
    pub(super) fn fault(&mut self) -> Option<SenderFault> {
        match self.sender.advance(&self.input, &mut self.out) {
            (_, SenderStep::Refused(fault)) => Some(fault),
            _ => None,
        }
    }

    /// What a fault of the session means.
    pub(super) fn trouble(&self, fault: &SenderFault) -> Trouble {
        Trouble::of(fault, &self.peer.label, self.peer.name.as_ref())
    }

    /// Gives memory back before it waits for another message.
    pub(super) fn lighten(&mut self) {
        self.out.shrink_to(OUT_KEPT_MAX);
        self.input.shrink_to_fit();
    }

    /// Says farewell, and closes.
    pub(super) async fn quit(mut self) {
        self.sender.quit(&mut self.out);
        // Whatever comes of it, the session is over.
        let _ = after(QUIT_PATIENCE, self.step("answer to QUIT", QUIT_PATIENCE)).await;
    }
}
