//! The point of a history that an instant resolves to.

use crate::{
    point::{InstantPosition, ResolvedInstant},
    units::{FrameNumber, GenerationNumber},
};

/// A commit, and the position among the commits of the instant that resolved to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) number: GenerationNumber,
    /// The last frame of that generation to apply. If it is the generation's `base_frame`, none of its commits is applied.
    pub(super) frame: Option<FrameNumber>,
    pub(super) resolved: ResolvedInstant,
}

impl Target {
    /// The state after a frame, without an instant.
    pub(super) fn after_frame(number: GenerationNumber, frame: Option<FrameNumber>) -> Self {
        let resolved = ResolvedInstant { kind: InstantPosition::AfterLast, commit: None, next: None };
        Self { number, frame, resolved }
    }
}
