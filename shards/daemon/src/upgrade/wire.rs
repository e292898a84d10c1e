//! What the two processes say to each other: one packet a word, with descriptors beside it where the word is about sockets.

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The version of these words. Two processes that differ in it can't hand over; the former one serves on.
pub(super) const PROTOCOL: u32 = 1;

/// Bytes of a word, which may name a directory for each core.
const WORD_MAX: usize = 64 * 1024;

/// Descriptors beside one word; the kernel takes 253.
pub(super) const DESCRIPTORS_MAX: usize = 200;

/// A word of the conversation. Within a version words may be added and none changed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The former process: who it is, and the addresses of listeners whose sockets somebody keeps open when all
    /// processes end. The sockets follow.
    Offer { protocol: u32, version: String, process: u32, state_dir: PathBuf, kept_open: Vec<SocketAddr> },
    /// Listening sockets of an address, beside it.
    Listening { address: SocketAddr },
    /// The listening socket of health and metrics, beside it.
    AdminTcp,
    /// The listening socket of the API, beside it, and where it is.
    AdminSocket { path: PathBuf },
    /// The lock of the state directory, beside it.
    Lock,
    /// That was all.
    OfferEnds,
    /// The new process: everything is checked and made ready.
    Prepared,
    /// The former one: bans and greylist are written down, and are not touched any more.
    YourTurn,
    /// The new one: all that can fail has not, and it would answer clients.
    Serving { version: String },
    /// The former one: then do. From here on there is no way back.
    Go,
    /// The new one: it gives up, for this reason.
    Failed { reason: String },
    /// The former one: connections that came to it and that it did not begin to serve, beside it.
    Strays { address: SocketAddr },
    /// The former one: its spools are closed, and it ends.
    Done,
}

/// One end.
pub(super) struct Line(OwnedFd);

impl Line {
    pub(super) fn new(end: OwnedFd) -> Self {
        Self(end)
    }

    /// Both ends; none of them is inherited by a program that is started.
    pub(super) fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context("no pair of sockets to hand over by")?;
        Ok((Self(one), Self(other)))
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(super) fn say(&self, word: &Word, beside: &[BorrowedFd<'_>]) -> Result<()> {
        let text = serde_json::to_vec(word).context("a word that can't be written")?;
        if text.len() > WORD_MAX {
            bail!("a word of {} bytes, the most are {WORD_MAX}", text.len());
        }
        let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(beside).size()];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !beside.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(beside)) {
            bail!("{} descriptors don't fit beside a word", beside.len());
        }
        sendmsg(&self.0, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)
            .context("the other process can't be told")?;
        Ok(())
    }

    /// The next word with what is beside it; nothing if the other end is gone. An error if none comes in time.
    pub(super) fn hear(&self, patience: Option<Duration>) -> Result<Option<(Word, Vec<OwnedFd>)>> {
        self.wait(patience)?;
        let mut text = vec![0; WORD_MAX];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let mut receive = || recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags);
        let received = match receive() {
            // The other end was closed before it had heard all. What it had said itself is still to come.
            Err(rustix::io::Errno::CONNRESET) => receive(),
            other => other,
        };
        let received = received.context("the other process can't be heard")?;
        let beside = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let beside: Vec<OwnedFd> = beside.collect();
        if received.bytes == 0 {
            return Ok(None);
        }
        let word = serde_json::from_slice(&text[..received.bytes]).context("the other process says what is no word")?;
        Ok(Some((word, beside)))
    }

    fn wait(&self, patience: Option<Duration>) -> Result<()> {
        let end = patience.map(|patience| Instant::now() + patience);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], left.as_ref()) {
                Ok(0) => bail!("the other process says nothing for {:?}", patience.unwrap_or_default()),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("the other process can't be waited for"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn words_come_as_they_were_said_with_what_is_beside_them() {
        let (one, other) = Line::pair().expect("a pair");
        let (mut kept, given) = UnixStream::pair().expect("a pair");
        let word = Word::Listening { address: "[::1]:25".parse().expect("an address") };
        one.say(&word, &[given.as_fd(), given.as_fd()]).expect("said");
        one.say(&Word::Prepared, &[]).expect("said");
        drop((one, given));
        let (heard, beside) = other.hear(None).expect("heard").expect("a word");
        assert_eq!((heard, beside.len()), (word, 2));
        kept.write_all(b"x").expect("written");
        let mut read = [0];
        UnixStream::from(beside.into_iter().next().expect("one")).read_exact(&mut read).expect("read");
        assert_eq!(&read, b"x");
        assert_eq!(other.hear(None).expect("heard").expect("a word").0, Word::Prepared);
        assert!(other.hear(None).expect("the end").is_none());
    }

    #[test]
    fn the_last_words_of_one_that_did_not_listen_are_heard() {
        let (one, other) = Line::pair().expect("a pair");
        one.say(&Word::OfferEnds, &[]).expect("said");
        other.say(&Word::Failed { reason: "no".to_owned() }, &[]).expect("said");
        drop(other);
        let (heard, _) = one.hear(None).expect("heard").expect("a word");
        assert_eq!(heard, Word::Failed { reason: "no".to_owned() });
        assert!(one.hear(None).expect("the end").is_none());
    }

    #[test]
    fn silence_and_noise_are_errors() {
        let (one, other) = Line::pair().expect("a pair");
        let error = other.hear(Some(Duration::from_millis(5))).expect_err("nothing was said");
        assert!(error.to_string().contains("says nothing"), "{error}");
        rustix::net::send(&one.0, b"\"dance\"", SendFlags::empty()).expect("sent");
        assert!(other.hear(None).is_err());
    }
}
