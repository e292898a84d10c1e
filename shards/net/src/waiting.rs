//! Waiting for nothing in particular: whether a peer keeps silent, and letting it wait.
//!
//! Both are rare, once or twice in a session and never on the way of a message, and want more exactness than the sweep of
//! the connection table has; so each sets a timer of its own.

use crate::connection::{Closed, Connection};
use ringpost_runtime::{after, tick};
use socket2::SockRef;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::task::Poll;
use std::time::Duration;

/// How often a pause looks whether the peer is still there.
const LOOK: Duration = Duration::from_secs(1);

/// What can be seen of a peer without reading.
enum Presence {
    There,
    /// It has said all it will ever say, and that is read.
    Done,
    Reset,
}

impl Connection {
    /// Whether the peer keeps silent for `span`: true after that time, false as soon as it says something, which is kept for
    /// later. An error if the connection ends, or the server is stopping.
    pub async fn quiet(&mut self, span: Duration) -> Result<bool, Closed> {
        let spoken = after(span, self.feed(true, |input| (0, (!input.is_empty()).then_some(())))).await;
        match spoken {
            None => Ok(true),
            Some(Ok(())) => Ok(false),
            Some(Err(closed)) => Err(closed),
        }
    }

    /// Lets the peer wait for `span`. Nothing is read, so that it can't send either, once the kernel's buffers are full. Ends
    /// early, without an error, if the server is stopping or if the peer has closed its side and all it sent is read: the
    /// next read tells.
    pub async fn pause(&mut self, span: Duration) -> Result<(), Closed> {
        let since = tick();
        loop {
            let left = span.saturating_sub(tick().since(since));
            if left.is_zero() {
                return Ok(());
            }
            match after(left.min(LOOK), self.called()).await {
                Some(Ok(())) => return Ok(()),
                Some(Err(closed)) => return Err(self.judge(closed)),
                None => {}
            }
            match self.presence() {
                Presence::There => {}
                Presence::Done => return Ok(()),
                Presence::Reset => return Err(Closed::Peer),
            }
        }
    }

    /// Waits for what the table calls its connections for: a stop, or the end of this one.
    async fn called(&self) -> Result<(), Closed> {
        poll_fn(|cx| match self.over(true) {
            Err(Closed::Stopping) => Poll::Ready(Ok(())),
            Err(closed) => Poll::Ready(Err(closed)),
            Ok(()) => {
                self.entry.wait(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    fn presence(&self) -> Presence {
        if !self.carry[self.used..].is_empty() {
            return Presence::There;
        }
        // SAFETY: the stream owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.tcp.as_raw_fd()) };
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(&fd).recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
            Ok(0) => Presence::Done,
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Presence::Reset,
            _ => Presence::There,
        }
    }
}
