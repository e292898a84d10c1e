//! The bytes of a message as the body of an answer.
//!
//! Invariants: of a file no more than [`PIECE_BYTES`] are in memory at a time; it is read on the runtime's threads for
//! what blocks, and never on the one that answers. A file that ends early breaks the answer off, so that nobody takes a
//! part for the whole.

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes that are read from a file at a time.
const PIECE_BYTES: u64 = 256 * 1024;

/// Bytes that are in memory already.
pub(crate) fn memory(bytes: Arc<Vec<u8>>) -> Body {
    Body::from(Bytes::from_owner(Shared(bytes)))
}

struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A file and its length.
///
/// # Errors
/// If it can't be opened.
pub(crate) async fn file(path: PathBuf) -> io::Result<(u64, FileBody)> {
    let open = spawn_blocking(move || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok::<_, io::Error>((length, file))
    });
    let (length, file) = open.await.map_err(io::Error::other)??;
    Ok((length, FileBody { reading: read(file, length), left: length }))
}

/// A piece that is being read; it comes with the file, for the next one.
type Reading = JoinHandle<io::Result<(File, Vec<u8>)>>;

/// A file's bytes, piece by piece.
pub(crate) struct FileBody {
    /// The piece that comes next; nothing once there is none.
    reading: Option<Reading>,
    /// Bytes that have not been given out.
    left: u64,
}

/// Begins to read the next piece, if there is one.
fn read(mut file: File, left: u64) -> Option<Reading> {
    let piece_bytes = left.min(PIECE_BYTES) as usize;
    let read = move || {
        let mut piece = vec![0; piece_bytes];
        file.read_exact(&mut piece)?;
        Ok((file, piece))
    };
    (piece_bytes > 0).then(|| spawn_blocking(read))
}

impl HttpBody for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(None);
        };
        let read_back = ready!(pin!(reading).poll(cx)).map_err(io::Error::other).flatten();
        self.reading = None;
        Poll::Ready(Some(read_back.map(|(file, piece)| {
            self.left -= piece.len() as u64;
            self.reading = read(file, self.left);
            Frame::data(piece.into())
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
