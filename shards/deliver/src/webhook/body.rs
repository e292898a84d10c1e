//! The body of a request: what stands before the message, the message, and what stands behind it.

use super::content::{Coding, Content, Pieces};
use super::signature::Signing;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use thiserror::Error;
use tokio::task::{JoinHandle, spawn_blocking};

/// What is sent.
#[derive(Clone)]
pub(super) struct Whole {
    pub(super) before: Bytes,
    pub(super) content: Content,
    pub(super) coding: Coding,
    pub(super) behind: Bytes,
}

impl Whole {
    /// Its size in bytes.
    pub(super) fn len(&self) -> u64 {
        let around = (self.before.len() + self.behind.len()) as u64;
        around + self.coding.len(self.content.len())
    }

    /// Whether it has to be read from a file first.
    pub(super) fn blocks(&self) -> bool {
        self.content.blocks()
    }

    /// Reads all of it into a signature.
    ///
    /// # Errors
    /// If the message can't be read, or is damaged.
    pub(super) fn sign(&self, mut signing: Signing) -> io::Result<String> {
        signing.update(&self.before);
        let mut pieces = Pieces::new(self.content.clone(), self.coding);
        while let Some(piece) = pieces.next()? {
            signing.update(&piece);
        }
        signing.update(&self.behind);
        Ok(signing.finish())
    }
}

/// How far the sending of a body has come, for who waits for the answer.
#[derive(Default)]
pub(super) struct Progress {
    /// All of it was given to the connection.
    given: AtomicBool,
    /// Why it could not go on.
    fault: OnceLock<String>,
}

impl Progress {
    pub(super) fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }
}

/// A body on its way. Files are read on threads for what blocks, a piece at a time.
pub(super) struct Sending {
    state: State,
    left: u64,
    behind: Bytes,
    progress: Arc<Progress>,
}

enum State {
    Before(Bytes, Pieces),
    Pieces(Pieces),
    Reading(JoinHandle<(Pieces, io::Result<Option<Bytes>>)>),
    Done,
}

/// A message can't be sent to its end.
#[derive(Debug, Error)]
#[error("the message can't be read: {0}")]
pub(super) struct Unreadable(String);

impl Sending {
    pub(super) fn new(whole: Whole, progress: Arc<Progress>) -> Self {
        let left = whole.len();
        let Whole { before, content, coding, behind } = whole;
        Self { state: State::Before(before, Pieces::new(content, coding)), left, behind, progress }
    }

    fn give(&mut self, bytes: Bytes) -> Option<Result<Frame<Bytes>, Unreadable>> {
        self.left -= bytes.len() as u64;
        Some(Ok(Frame::data(bytes)))
    }

    fn fail(&mut self, reason: String) -> Option<Result<Frame<Bytes>, Unreadable>> {
        self.state = State::Done;
        // It fails once.
        let _ = self.progress.fault.set(reason.clone());
        Some(Err(Unreadable(reason)))
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Unreadable;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unreadable>>> {
        let this = &mut *self;
        loop {
            let read = match std::mem::replace(&mut this.state, State::Done) {
                State::Done => return Poll::Ready(None),
                State::Before(bytes, pieces) => {
                    this.state = State::Pieces(pieces);
                    return Poll::Ready(this.give(bytes));
                }
                State::Pieces(mut pieces) if pieces.blocks() => {
                    this.state = State::Reading(spawn_blocking(move || {
                        let read = pieces.next();
                        (pieces, read)
                    }));
                    continue;
                }
                State::Pieces(mut pieces) => {
                    let read = pieces.next();
                    Ok((pieces, read))
                }
                State::Reading(mut reading) => match Pin::new(&mut reading).poll(cx) {
                    Poll::Pending => {
                        this.state = State::Reading(reading);
                        return Poll::Pending;
                    }
                    Poll::Ready(read) => read,
                },
            };
            return Poll::Ready(match read {
                Ok((pieces, Ok(Some(piece)))) => {
                    this.state = State::Pieces(pieces);
                    this.give(piece)
                }
                Ok((_, Ok(None))) => {
                    this.progress.given.store(true, Ordering::Release);
                    let behind = this.behind.clone();
                    this.give(behind)
                }
                Ok((_, Err(error))) => this.fail(error.to_string()),
                Err(error) => this.fail(error.to_string()),
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
