//! Hands the body of an upload from its request to the blocking call that reads it as a file.

use std::io::{self, Read};

use axum::body::Bytes;
use tokio::sync::mpsc;

use super::executor::Permit;

/// Maximum number of parts in the channel. Each keeps the buffer alive that it was received into, of up to 400 KB.
const PARTS_MAX: usize = 4;

/// A part of an upload, or its end.
pub(super) enum Part {
    Bytes(Bytes),
    /// The file is complete. Building the database from it requires the permit of a copy.
    End(Permit),
}

pub(super) type PartSender = mpsc::Sender<Part>;

/// Reads an upload as a file.
pub(super) struct PartReader {
    receiver: mpsc::Receiver<Part>,
    part: Bytes,
    is_complete: bool,
    /// Held until the call that reads the upload has returned.
    permit: Option<Permit>,
}

impl PartReader {
    pub(super) fn channel() -> (PartSender, Self) {
        let (sender, receiver) = mpsc::channel(PARTS_MAX);
        (sender, Self { receiver, part: Bytes::new(), is_complete: false, permit: None })
    }
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() && !self.is_complete {
            match self.receiver.blocking_recv() {
                Some(Part::Bytes(bytes)) => self.part = bytes,
                Some(Part::End(permit)) => (self.is_complete, self.permit) = (true, Some(permit)),
                None => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the upload is incomplete"));
                }
            }
        }
        let count = buffer.len().min(self.part.len());
        buffer[..count].copy_from_slice(&self.part.split_to(count));
        Ok(count)
    }
}
