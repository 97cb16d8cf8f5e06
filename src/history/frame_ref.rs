//! References to frames of the logs of an image.

use crate::units::{FrameNumber, PageNumber};

/// A frame of one of the logs of an image. References are ordered as the frames are in the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FrameRef {
    /// The position of the log among the logs of the image.
    pub(super) log: u32,
    pub(super) frame: FrameNumber,
}

/// A page whose newest version is in a compressed log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PackedPage {
    pub(super) frame: FrameRef,
    pub(super) page: PageNumber,
}
