//! Where a history begins once it exceeds its limit in bytes.
//!
//! The size of a history is the total length of the files in its archive. The WAL is not among them: it is a part of the database
//! until it ends. The full snapshots to which retained deltas refer are among them. A history can begin at any generation with
//! commits that has a snapshot before it, or for which a snapshot can be rebuilt from the generations before it. All earlier
//! generations are pruned.
//!
//! The history keeps as many instants as fit. If none of its snapshots leads to a history that fits, a new one must be written.
//! It is placed so that the logs can grow by its length, or by half of the rest of the limit, before the next one must be written:
//! the snapshots that a limit requires write at most as many bytes as the logs, unless the limit is less than three times the
//! size of the database.

use std::collections::BTreeMap;

use super::{delta::base_of, generation_log::known_end, timeline::Timeline};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    layout::ArchiveFile,
    stamps::Stamps,
    units::GenerationNumber,
};

/// The files of a history, from the generation on that its window needs.
#[derive(Debug)]
pub(super) struct Extents {
    generations: Vec<Extent>,
    /// The total length of the other files.
    other: u64,
    bases: Vec<BaseExtent>,
}

/// A full snapshot to which deltas refer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BaseExtent {
    number: GenerationNumber,
    len: u64,
    /// The generation of the newest delta that refers to it.
    used_until: GenerationNumber,
}

/// A generation of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    number: GenerationNumber,
    /// The total length of its files, without the snapshot before it.
    len: u64,
    snapshot: SnapshotBefore,
}

/// The snapshot before a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SnapshotBefore {
    /// It exists, with this length.
    Taken(u64),
    /// It can be taken, and would have this length.
    Possible(u64),
    /// It exists with this length, and the history cannot begin at it.
    Unusable(u64),
    /// It does not exist and cannot be taken.
    Impossible,
}

/// The generation at which a history begins from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// The snapshot before the generation exists.
    Taken(GenerationNumber),
    /// The snapshot before the generation must be taken.
    Untaken(GenerationNumber),
}

/// A generation at which a history can begin.
#[derive(Clone, Copy)]
struct Candidate {
    beginning: Beginning,
    /// The length of a snapshot that must be taken; 0 if it exists.
    new: u64,
    /// The size of a history that begins there, without a snapshot that must be taken.
    rest: u64,
}

impl Extent {
    /// The length of its files and of the snapshot before it.
    fn total(&self) -> u64 {
        self.len
            + match self.snapshot {
                SnapshotBefore::Taken(len) | SnapshotBefore::Unusable(len) => len,
                SnapshotBefore::Possible(_) | SnapshotBefore::Impossible => 0,
            }
    }
}

impl Candidate {
    fn is_taken(&self) -> bool {
        matches!(self.beginning, Beginning::Taken(_))
    }

    fn size(&self) -> u64 {
        self.rest + self.new
    }
}

impl Extents {
    /// Measures the history from the generation `from` on, or all of it. Returns `None` if it does not exceed `limit`.
    pub(super) fn exceeding(
        timeline: &Timeline,
        from: Option<GenerationNumber>,
        limit: u64,
    ) -> Result<Option<Self>> {
        let first = from.or(timeline.retained_from).unwrap_or(GenerationNumber::new(0));
        let paths = &timeline.origin.paths;
        let mut other = 0;
        for path in [paths.live_stamps(), paths.retention_mark(), paths.limit_mark()] {
            other += Disk::len(&path)?.unwrap_or(0);
        }
        let mut lens: BTreeMap<GenerationNumber, (u64, u64)> = BTreeMap::new();
        let mut bases: BTreeMap<GenerationNumber, BaseExtent> = BTreeMap::new();
        for (number, file) in
            timeline.ended().list_loose()?.into_iter().filter(|(number, _)| *number >= first)
        {
            let len = timeline.ended().len(number, file)?.unwrap_or(0);
            let (files, snapshot) = lens.entry(number).or_default();
            *if file.is_of_snapshot() { snapshot } else { files } += len;
            if file == ArchiveFile::Delta
                && let Some(base) = base_before(timeline, number)?
            {
                bases.insert(base.number, base);
            }
        }
        let bases: Vec<BaseExtent> = bases.into_values().collect();
        // A pack is removed when all its generations are pruned.
        for (span, len) in timeline.ended().pack_lens()? {
            if span.last >= first {
                lens.entry(span.last).or_default().0 += len;
            }
        }
        let in_bases = len_before(&bases, first);
        if other + in_bases + lens.values().map(|(files, snapshot)| files + snapshot).sum::<u64>() <= limit {
            return Ok(None);
        }
        let mut generations = Vec::new();
        for number in timeline.numbers.iter().copied().filter(|number| *number >= first) {
            let (len, snapshot) = lens.remove(&number).unwrap_or_default();
            generations.push(Extent { number, len, snapshot: before(timeline, number, snapshot)? });
        }
        other += lens.values().map(|(files, snapshot)| files + snapshot).sum::<u64>();
        Ok(Some(Self { generations, other, bases }))
    }

    /// Where the history begins so that its size does not exceed `limit`, or exceeds it by as little as possible. Returns `None`
    /// if it begins there already.
    pub(super) fn beginning(&self, limit: u64) -> Option<Beginning> {
        let mut all = self.other + self.generations.iter().map(Extent::total).sum::<u64>();
        let first = self.generations.first().map(|extent| extent.number);
        if all + first.map_or(0, |first| len_before(&self.bases, first)) <= limit {
            return None;
        }
        let mut candidates = Vec::new();
        for (before, extent) in self.generations.iter().zip(self.generations.iter().skip(1)) {
            all -= before.total();
            let number = extent.number;
            let rest = all + len_before(&self.bases, number);
            candidates.extend(match extent.snapshot {
                SnapshotBefore::Taken(_) => {
                    Some(Candidate { beginning: Beginning::Taken(number), new: 0, rest })
                }
                SnapshotBefore::Possible(new) => {
                    Some(Candidate { beginning: Beginning::Untaken(number), new, rest })
                }
                SnapshotBefore::Unusable(_) | SnapshotBefore::Impossible => None,
            });
        }
        let first = |is_taken: bool, spare: &dyn Fn(u64) -> u64| {
            let fits = |candidate: &&Candidate| {
                candidate.is_taken() == is_taken && candidate.size() <= limit - spare(candidate.new)
            };
            candidates.iter().find(fits)
        };
        let taken = first(true, &|_| 0);
        let spare = |new: u64| if taken.is_some() { 0 } else { new.min(limit.saturating_sub(new) / 2) };
        let chosen = match (taken, first(false, &spare)) {
            // The instants that the new snapshot keeps are worth its length.
            (Some(taken), Some(untaken)) if untaken.rest.saturating_sub(taken.rest) > untaken.new => untaken,
            (Some(taken), _) => taken,
            (None, Some(untaken)) => untaken,
            (None, None) => candidates.last()?,
        };
        Some(chosen.beginning)
    }

    /// Excludes a snapshot that exists and is not intact.
    pub(super) fn exclude(&mut self, number: GenerationNumber) {
        for extent in self.generations.iter_mut().filter(|extent| extent.number == number) {
            if let SnapshotBefore::Taken(len) | SnapshotBefore::Possible(len) = extent.snapshot {
                extent.snapshot = SnapshotBefore::Unusable(len);
            }
        }
    }

    /// Excludes the snapshots that do not exist.
    pub(super) fn exclude_untaken(&mut self) {
        for extent in &mut self.generations {
            if let SnapshotBefore::Possible(_) = extent.snapshot {
                extent.snapshot = SnapshotBefore::Impossible;
            }
        }
    }
}

/// The total length of the snapshots before the generation `from` to which deltas from there on refer.
fn len_before(bases: &[BaseExtent], from: GenerationNumber) -> u64 {
    let is_kept = |base: &&BaseExtent| base.number < from && base.used_until >= from;
    bases.iter().filter(is_kept).map(|base| base.len).sum()
}

/// The base of the delta before a generation. Returns `None` if the sums of the delta are missing or damaged.
fn base_before(timeline: &Timeline, number: GenerationNumber) -> Result<Option<BaseExtent>> {
    let base = match base_of(timeline.ended(), number) {
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(None),
        base => base?,
    };
    let Some(base) = base else { return Ok(None) };
    let len = timeline.ended().len(base, ArchiveFile::Snapshot)?.unwrap_or(0);
    Ok(Some(BaseExtent { number: base, len, used_until: number }))
}

/// The snapshot before a generation. `len` is its length if it exists.
fn before(timeline: &Timeline, number: GenerationNumber, len: u64) -> Result<SnapshotBefore> {
    let is_taken = timeline.snapshots.contains(&number);
    // A snapshot without checksums is a leftover, which is deleted or replaced.
    let none = if is_taken { SnapshotBefore::Unusable(len) } else { SnapshotBefore::Impossible };
    let stamps = match timeline.stamps(number) {
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(none),
        stamps => stamps?,
    };
    let has_commits = match has_commits(timeline, &stamps) {
        Err(error) if error.kind() == ErrorKind::Corrupt => false,
        has_commits => has_commits?,
    };
    if !has_commits {
        return Ok(none);
    }
    if is_taken {
        return Ok(SnapshotBefore::Taken(len));
    }
    let follows = number.previous().is_some_and(|before| timeline.numbers.binary_search(&before).is_ok());
    let Some(end) = stamps.generation.lineage.end_before().filter(|_| follows) else { return Ok(none) };
    let pages = end.pages.len(stamps.generation.page_size);
    let pages = if pages > 0 { pages } else { Disk::len(&timeline.origin.data)?.unwrap_or(0) };
    // A checksum of 8 bytes for each page.
    Ok(SnapshotBefore::Possible(pages + pages / u64::from(stamps.generation.page_size) * 8))
}

/// Whether a generation has commits. Its header then does not change any more. The stamps of the newest generation may belong to a
/// commit that failed, so its log is read.
fn has_commits(timeline: &Timeline, stamps: &Stamps) -> Result<bool> {
    if !timeline.is_live(stamps.generation.number) {
        return Ok(!stamps.commits().is_empty());
    }
    Ok(known_end(timeline, stamps)?.is_some_and(|end| end.frame > stamps.generation.base_frame))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extents() -> impl Strategy<Value = Extents> {
        let snapshot = prop_oneof![
            1 => (1..2000_u64).prop_map(SnapshotBefore::Taken),
            3 => (1..2000_u64).prop_map(SnapshotBefore::Possible),
            1 => (0..2000_u64).prop_map(SnapshotBefore::Unusable),
            1 => Just(SnapshotBefore::Impossible),
        ];
        let extent = (0..3000_u64, snapshot);
        let base = (0..12_usize, 1..8_u64);
        let all = (prop::collection::vec(extent, 0..12), 0..100_u64, prop::collection::vec(base, 0..3));
        all.prop_map(|(generations, other, bases)| {
            let numbers = (1..).map(GenerationNumber::new);
            let generations = numbers.zip(generations);
            let extent = |(number, (len, snapshot))| Extent { number, len, snapshot };
            let generations: Vec<_> = generations.map(extent).collect();
            // A base has the length of the full snapshot before its generation. That of 0 is pruned.
            let base = |(at, after): (usize, u64)| {
                let len = match at
                    .checked_sub(1)
                    .map(|at| generations.get(at).map(|extent: &Extent| extent.snapshot))
                {
                    None => 700,
                    Some(Some(SnapshotBefore::Taken(len) | SnapshotBefore::Unusable(len))) => len,
                    Some(_) => return None,
                };
                let number = at as u64;
                Some(BaseExtent {
                    number: GenerationNumber::new(number),
                    len,
                    used_until: GenerationNumber::new(number + after),
                })
            };
            let bases: BTreeMap<_, _> =
                bases.into_iter().filter_map(base).map(|base| (base.number, base)).collect();
            let bases = bases.into_values().collect();
            Extents { generations, other, bases }
        })
    }

    /// The size of the history from a generation on, without a snapshot that must be taken.
    fn rest(extents: &Extents, from: usize) -> u64 {
        let first = extents.generations.get(from).map(|extent| extent.number);
        extents.other
            + extents.generations[from..].iter().map(Extent::total).sum::<u64>()
            + first.map_or(0, |first| len_before(&extents.bases, first))
    }

    /// The history that begins at a generation, after the snapshot before it was taken.
    fn pruned(extents: &Extents, from: usize) -> Extents {
        let mut generations = extents.generations[from..].to_vec();
        if let SnapshotBefore::Possible(len) = generations[0].snapshot {
            generations[0].snapshot = SnapshotBefore::Taken(len);
        }
        Extents { generations, other: extents.other, bases: extents.bases.clone() }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn beginning_keeps_what_fits(extents in extents(), limit in 0..20_000_u64) {
            let size = |at: usize| rest(&pruned(&extents, at), 0);
            let new = |at: usize| match extents.generations[at].snapshot {
                SnapshotBefore::Taken(_) => Some(0),
                SnapshotBefore::Possible(len) => Some(len),
                SnapshotBefore::Unusable(_) | SnapshotBefore::Impossible => None,
            };
            let candidates: Vec<_> =
                (1..extents.generations.len()).filter(|at| new(*at).is_some()).collect();
            let fitting = candidates.iter().copied().find(|at| size(*at) <= limit);
            let chosen = extents.beginning(limit).map(|beginning| match beginning {
                Beginning::Taken(number) => (number, true),
                Beginning::Untaken(number) => (number, false),
            });
            let Some((number, is_taken)) = chosen else {
                prop_assert!(rest(&extents, 0) <= limit || candidates.is_empty());
                return Ok(());
            };
            prop_assert!(rest(&extents, 0) > limit);
            let chosen = usize::try_from(number.get()).unwrap() - 1;
            prop_assert!(candidates.contains(&chosen));
            prop_assert_eq!(new(chosen) == Some(0), is_taken);
            match fitting {
                None => prop_assert_eq!(Some(&chosen), candidates.last()),
                Some(oldest) => {
                    prop_assert!(size(chosen) <= limit, "{} of {limit}", size(chosen));
                    // A new snapshot is not taken for logs shorter than itself.
                    let lost = rest(&extents, oldest) - rest(&extents, chosen);
                    let allowed = if is_taken { new(oldest).unwrap() } else { u64::MAX };
                    prop_assert!(lost <= allowed, "{lost} bytes of logs are lost");
                    // Without a snapshot that fits, the logs can grow before the next one must be taken.
                    let fits = |at: &usize| new(*at) == Some(0) && size(*at) <= limit;
                    if !candidates.iter().any(fits) && size(chosen) + new(chosen).unwrap() > limit {
                        let spare = limit - size(chosen);
                        let is_last = candidates.last() == Some(&chosen);
                        prop_assert!(is_last || spare >= (limit - new(chosen).unwrap()) / 2);
                    }
                }
            }
            // What fits is not pruned further.
            let left = pruned(&extents, chosen);
            prop_assert!(left.beginning(limit).is_none() || rest(&left, 0) > limit);
        }
    }

    #[test]
    fn newest_beginning_is_chosen_if_none_fits() {
        let extent = |number, len, snapshot| Extent { number: GenerationNumber::new(number), len, snapshot };
        let mut extents = Extents {
            generations: vec![
                extent(1, 1000, SnapshotBefore::Taken(100)),
                extent(2, 1000, SnapshotBefore::Taken(100)),
                extent(3, 1000, SnapshotBefore::Possible(100)),
            ],
            other: 0,
            bases: Vec::new(),
        };
        let (second, third) = (GenerationNumber::new(2), GenerationNumber::new(3));
        assert_eq!(extents.beginning(500), Some(Beginning::Untaken(third)));
        assert_eq!(extents.beginning(2100), Some(Beginning::Taken(second)));
        assert_eq!(extents.beginning(3200), None);
        // A full disk prevents the new snapshot.
        extents.exclude_untaken();
        assert_eq!(extents.beginning(500), Some(Beginning::Taken(second)));
        extents.exclude(second);
        assert_eq!(extents.beginning(500), None);
    }
}
