//! The frames of a log, one by one, also behind one that is damaged.

use std::path::Path;

use super::{Run, Tag};
use crate::{
    error::{ErrorKind, Result},
    finding::Finding,
    wal::{Chain, FRAME_HEADER_LEN, HEADER_LEN, Header, frame_fields},
};

/// Findings of one file that are told one by one.
pub(super) const TOLD_MAX: usize = 20;

/// About how much of a log is read at once.
const READ_LEN: usize = 1 << 20;

impl Run<'_> {
    /// Follows the frames of a log, which `read` reads, from the first to `last`, which are all known to have been
    /// written, and says which of them are not as they were.
    pub(super) fn frames(
        &mut self,
        path: &Path,
        header: &Header,
        last: u32,
        mut read: impl FnMut(&mut [u8], u64) -> Result<usize>,
    ) -> Result<()> {
        let frame_len = header.frame_len();
        let mut buffer = vec![0; (READ_LEN / frame_len).max(1) * frame_len];
        // Behind a damaged frame the chain goes on from the checksum that it has, or from the one that it should have.
        let mut chains = vec![header.chain()];
        let mut told = Told::default();
        let mut number = 0;
        let mut at = HEADER_LEN as u64;
        while number < last {
            let count = match read(&mut buffer, at) {
                // What is compressed is read whole or not at all.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let message = "it is damaged: it cannot be decompressed from this frame on";
                    self.found(Finding::new(path, message).frame(number + 1));
                    break;
                }
                count => count?,
            };
            let (frames, _) = buffer[..count].split_at_mut(count - count % frame_len);
            if frames.is_empty() {
                let message = format!("it ends before frame {last}, the last that was committed");
                self.found(Finding::new(path, message).frame(number + 1));
                break;
            }
            for bytes in frames.chunks_exact_mut(frame_len) {
                number += 1;
                if number > last {
                    break;
                }
                let followed =
                    chains.iter_mut().find_map(|chain| chain.follow(bytes).map(|frame| (frame, *chain)));
                if let Some((frame, chain)) = followed {
                    chains = vec![chain];
                    let page = &mut bytes[FRAME_HEADER_LEN..];
                    if !is_authentic(self.subject.tag, frame.page_number, page) {
                        told.add(self, tag_finding(path, frame.page_number).frame(number));
                    }
                    continue;
                }
                chains = after_damage(chains[0], header, bytes);
                let message = "it does not continue the chain of checksums: it is damaged, or of another log";
                let finding = Finding::new(path, message).frame(number);
                let page = frame_fields(bytes).page_number;
                told.add(self, if page > 0 { finding.page(page) } else { finding });
            }
            self.read(count as u64)?;
            at += (count - count % frame_len) as u64;
        }
        told.finish(self, path, "frames");
        Ok(())
    }
}

/// The chains that may go on behind a frame that did not continue its own.
fn after_damage(mut chain: Chain, header: &Header, frame: &[u8]) -> Vec<Chain> {
    let mut stored = [0; 8];
    stored.copy_from_slice(&frame[16..FRAME_HEADER_LEN]);
    chain.extend(&frame[..8], &frame[FRAME_HEADER_LEN..]);
    vec![header.chain_after(stored), chain]
}

/// Whether the tag of a page fits, which is opened in place.
pub(super) fn is_authentic(tag: Option<&Tag<'_>>, page_number: u32, page: &mut [u8]) -> bool {
    tag.is_none_or(|tag| tag(page_number, page))
}

pub(super) fn tag_finding(path: &Path, page_number: u32) -> Finding {
    Finding::new(path, "its tag does not fit: it is damaged or was tampered with").page(page_number)
}

/// Findings of one file, of which only so many are told one by one.
#[derive(Debug, Default)]
pub(super) struct Told(usize);

impl Told {
    pub(super) fn add(&mut self, run: &mut Run<'_>, finding: Finding) {
        self.0 += 1;
        if self.0 <= TOLD_MAX {
            run.found(finding);
        }
    }

    pub(super) fn finish(&self, run: &mut Run<'_>, path: &Path, what: &str) {
        if let Some(more) = self.0.checked_sub(TOLD_MAX).filter(|more| *more > 0) {
            run.found(Finding::new(path, format!("the same is so of {more} more {what}")));
        }
    }
}
