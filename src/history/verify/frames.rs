//! The frames of a log, one by one, including those after a damaged one.

use std::path::Path;

use super::run::{Listed, Run, tag_finding};
use crate::{
    error::{ErrorKind, Result},
    finding::Finding,
    units::FrameNumber,
    wal::{Chain, FRAME_HEADER_LEN, Frame, HEADER_LEN, Header, checksum_in},
};

/// Approximate number of bytes of a log that are read at once.
const READ_LEN: usize = 1 << 20;

/// Checks the frames up to `last` of a log, which `read` reads. All of them are known to have been written.
pub(super) fn check(
    run: &mut Run<'_>,
    path: &Path,
    header: &Header,
    last: Option<FrameNumber>,
    mut read: impl FnMut(&mut [u8], u64) -> Result<usize>,
) -> Result<()> {
    let last = FrameNumber::count(last);
    let frame_len = header.frame_len();
    let mut buffer = vec![0; (READ_LEN / frame_len).max(1) * frame_len];
    // After a damaged frame, the checksum chain continues with either the checksum in the frame or the computed one.
    let mut chains = vec![header.chain()];
    let mut listed = Listed::default();
    let mut number = 0;
    let mut at = HEADER_LEN as u64;
    while number < last {
        let count = match read(&mut buffer, at) {
            // A compressed part is read as a whole or not at all.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let message = "it is damaged: it cannot be decompressed from this frame on";
                run.found(Finding::new(path, message).frame(number + 1));
                break;
            }
            count => count?,
        };
        let (frames, _) = buffer[..count].split_at_mut(count - count % frame_len);
        if frames.is_empty() {
            let message = format!("it ends before frame {last}, the last committed one");
            run.found(Finding::new(path, message).frame(number + 1));
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
                if !run.subject.is_authentic(frame.page_number, page) {
                    listed.add(run, tag_finding(path, frame.page_number).frame(number));
                }
                continue;
            }
            chains = after_damage(chains[0], header, bytes);
            let message =
                "it does not continue the chain of checksums: it is damaged, or belongs to another log";
            let finding = Finding::new(path, message).frame(number);
            let finding = match Frame::parse(bytes) {
                Some(frame) => finding.page(frame.page_number.get()),
                None => finding,
            };
            listed.add(run, finding);
        }
        run.read(count as u64)?;
        at += (count - count % frame_len) as u64;
    }
    listed.finish(run, path, "frames");
    Ok(())
}

/// The chains that may continue after a damaged frame.
fn after_damage(mut chain: Chain, header: &Header, frame: &[u8]) -> Vec<Chain> {
    chain.extend(&frame[..8], &frame[FRAME_HEADER_LEN..]);
    vec![header.chain_after(checksum_in(frame)), chain]
}
