//! Where the resets of a flood come: one place after the other, from the first moment of a connection to a TLS handshake
//! that lacks its last flight.
//!
//! Each place leaves the server with something else in its hands: a session that hasn't begun, half a line, an envelope,
//! half a message, a message under way to the disk, half a handshake. All of it must be let go of.

use crate::args::TlsMode;
use crate::client::{Connection, Dial, Trouble};
use crate::stats::Recorder;

/// Half of a message; the answer to a whole one would take its end.
const HALF_MESSAGE: &str = "Subject: broken off\r\n\r\nThis message ends in the middle of a li";

/// Where a connection is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At once, before anything was said.
    Connected,
    /// With the banner read.
    Banner,
    /// In the middle of a command.
    Command,
    /// With an envelope under way, its replies unread.
    Envelope,
    /// In the middle of the message.
    Message,
    /// Behind the end of the message, without waiting for its reply.
    Verdict,
    /// In the middle of the ClientHello.
    Hello,
    /// Behind the ClientHello, before the client's last flight.
    Handshake,
}

impl Place {
    pub(crate) const ALL: [Self; 8] = [
        Self::Connected,
        Self::Banner,
        Self::Command,
        Self::Envelope,
        Self::Message,
        Self::Verdict,
        Self::Hello,
        Self::Handshake,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Banner => "banner",
            Self::Command => "command",
            Self::Envelope => "envelope",
            Self::Message => "message",
            Self::Verdict => "verdict",
            Self::Hello => "hello",
            Self::Handshake => "handshake",
        }
    }

    /// The place of the connection with this number.
    pub(crate) fn of_turn(number: u64) -> Self {
        Self::ALL[(number % Self::ALL.len() as u64) as usize]
    }

    /// Opens a connection, goes to the place and resets.
    pub(crate) async fn reset(self, dial: &Dial, turn: usize, recorder: &Recorder, rcpt: &str) -> Result<(), Trouble> {
        let connection = match self {
            Self::Connected => Connection::reach(dial, turn, recorder).await?,
            Self::Banner | Self::Command => {
                let mut connection = Connection::reach(dial, turn, recorder).await?;
                if dial.tls == TlsMode::Implicit {
                    connection = connection.encrypt(dial, turn).await?;
                }
                connection.expect("banner", 220).await?;
                if self == Self::Command {
                    connection.write(b"EHLO in-the-middle-of").await?;
                }
                connection
            }
            Self::Envelope | Self::Message | Self::Verdict => self.in_a_message(dial, turn, recorder, rcpt).await?,
            Self::Hello | Self::Handshake => self.in_a_handshake(dial, turn, recorder).await?,
        };
        Ok(connection.abort()?)
    }

    async fn in_a_message(
        self,
        dial: &Dial,
        turn: usize,
        recorder: &Recorder,
        rcpt: &str,
    ) -> Result<Connection, Trouble> {
        let mut connection = Connection::greet(dial, turn, recorder).await?;
        let (mail, rcpt) = ("MAIL FROM:<load@example.org>\r\n", format!("RCPT TO:<{rcpt}>\r\n"));
        if self == Self::Envelope {
            connection.write([mail, &rcpt].concat().as_bytes()).await?;
            return Ok(connection);
        }
        connection.command("MAIL", mail.as_bytes(), 250).await?;
        connection.command("RCPT", rcpt.as_bytes(), 250).await?;
        connection.command("DATA", b"DATA\r\n", 354).await?;
        let end = if self == Self::Verdict { "ne\r\n.\r\n" } else { "" };
        connection.write([HALF_MESSAGE, end].concat().as_bytes()).await?;
        Ok(connection)
    }

    async fn in_a_handshake(self, dial: &Dial, turn: usize, recorder: &Recorder) -> Result<Connection, Trouble> {
        let hello = Connection::client_hello(dial, turn)?;
        let mut connection = if dial.tls == TlsMode::Implicit {
            Connection::reach(dial, turn, recorder).await?
        } else {
            let mut connection = Connection::greet(dial, turn, recorder).await?;
            connection.ask_for_tls().await?;
            connection
        };
        if self == Self::Hello {
            connection.write(&hello[..hello.len() / 2]).await?;
        } else {
            connection.write(&hello).await?;
            // The first byte of the server's flight says that it has made its half of the keys.
            connection.hear_something().await?;
        }
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_turn() {
        for (index, place) in Place::ALL.into_iter().enumerate() {
            assert_eq!(place as usize, index);
            assert_eq!(Place::of_turn(index as u64 + 800), place);
        }
    }
}
