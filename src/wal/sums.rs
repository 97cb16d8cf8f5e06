//! The two running sums of a WAL's checksum (<https://www.sqlite.org/fileformat2.html#the_write_ahead_log>).
//!
//! Each step waits for the sums of the step before, so a loop over a page leaves most of the processor idle. A step is linear,
//! modulo 2^32, in the sums and in its input. Therefore the parts of a page are summed at the same time, all but the first from
//! zero. The sums before a part pass through it as through a part of zeros, and are added to those of the part.

/// The number of parts that are summed at the same time.
const PARTS: usize = 4;

/// The least number of steps that is divided: 1024 bytes. For fewer, the powers below take longer than they save.
const DIVIDED_MIN: usize = 128;

/// The input of one step: two words.
type Step = [[u8; 4]; 2];

/// The sums after `steps`, whose words `word` decodes.
pub(super) fn continued(sums: [u32; 2], steps: &[Step], word: impl Fn([u8; 4]) -> u32 + Copy) -> [u32; 2] {
    if steps.len() < DIVIDED_MIN {
        return in_sequence(sums, steps, word);
    }
    let len = steps.len() / PARTS;
    let parts: [&[Step]; PARTS] = std::array::from_fn(|part| &steps[part * len..(part + 1) * len]);
    // Arrays of one sum each, which the compiler keeps in vectors.
    let (mut s0, mut s1) = ([0; PARTS], [0; PARTS]);
    [s0[0], s1[0]] = sums;
    for at in 0..len {
        let steps = parts.map(|part| part[at]);
        for part in 0..PARTS {
            [s0[part], s1[part]] = after([s0[part], s1[part]], steps[part], word);
        }
    }
    let zeros = Zeros::steps(len);
    let sums = (1..PARTS).fold([s0[0], s1[0]], |before, part| {
        let [before0, before1] = zeros.after(before);
        [s0[part].wrapping_add(before0), s1[part].wrapping_add(before1)]
    });
    in_sequence(sums, &steps[PARTS * len..], word)
}

fn in_sequence(sums: [u32; 2], steps: &[Step], word: impl Fn([u8; 4]) -> u32 + Copy) -> [u32; 2] {
    steps.iter().fold(sums, |sums, step| after(sums, *step, word))
}

/// The sums after one step.
fn after([s0, s1]: [u32; 2], step: Step, word: impl Fn([u8; 4]) -> u32) -> [u32; 2] {
    let [first, second] = step.map(word);
    let s0 = s0.wrapping_add(first).wrapping_add(s1);
    let s1 = s1.wrapping_add(second).wrapping_add(s0);
    [s0, s1]
}

/// The matrix of a number of steps over zeros. It is symmetric: its rows are `[a, b]` and `[b, c]`.
#[derive(Clone, Copy)]
struct Zeros {
    a: u32,
    b: u32,
    c: u32,
}

impl Zeros {
    const NO_STEP: Self = Self { a: 1, b: 0, c: 1 };
    const ONE_STEP: Self = Self { a: 1, b: 1, c: 2 };

    fn steps(mut count: usize) -> Self {
        let (mut all, mut power) = (Self::NO_STEP, Self::ONE_STEP);
        while count > 0 {
            if count % 2 == 1 {
                all = all.then(power);
            }
            power = power.then(power);
            count /= 2;
        }
        all
    }

    /// The product of two powers of one matrix, which is symmetric too.
    fn then(self, other: Self) -> Self {
        let [a, b] = other.after([self.a, self.b]);
        let [_, c] = other.after([self.b, self.c]);
        Self { a, b, c }
    }

    fn after(self, [s0, s1]: [u32; 2]) -> [u32; 2] {
        let Self { a, b, c } = self;
        [
            a.wrapping_mul(s0).wrapping_add(b.wrapping_mul(s1)),
            b.wrapping_mul(s0).wrapping_add(c.wrapping_mul(s1)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_parts_equal_sums_in_sequence() {
        let mut state = 1_u64;
        let steps: Vec<Step> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            [state >> 32, state].map(|word| *word.to_be_bytes().last_chunk().unwrap())
        })
        .take(8192)
        .collect();
        let sums = [0xdead_beef, 0xfeed_f00d];
        for len in (0..=3 * DIVIDED_MIN).chain([512, 513, 515, 8191, 8192]) {
            for word in [u32::from_le_bytes, u32::from_be_bytes] {
                let expected = in_sequence(sums, &steps[..len], word);
                assert_eq!(continued(sums, &steps[..len], word), expected, "{len} steps");
            }
        }
    }
}
