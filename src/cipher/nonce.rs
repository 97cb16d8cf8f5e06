//! Nonces: random, so that copies of a file that go on apart under one key do not meet.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The longest nonce of a cipher, in bytes.
pub(crate) const NONCE_LEN_MAX: usize = 32;

/// Nonces after which a generator is seeded anew. It bounds what two machines share that begin as copies of one.
const NONCES_A_SEED: u32 = 1 << 16;

/// Bytes that the generator makes at a time.
const READY_LEN: usize = 1024;

/// How often this process came into being by `fork(2)`.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Notes that this process is a new one. It is called in the child of a `fork(2)`, where a signal handler's rules
/// hold.
pub(crate) extern "C" fn forked() {
    FORKS.fetch_add(1, Relaxed);
}

/// Fills `bytes` from the operating system's random generator.
pub(crate) fn fill_from_system(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| Error::io("asking the system for random bytes", std::io::Error::other(error)))
}

/// A generator of nonces: `ChaCha12`, seeded from the operating system, anew after a fork and every so often.
///
/// An OS call for each page would take longer than the fastest cipher.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Nonces {
    generator: ChaCha12Rng,
    forks: u64,
    left: u32,
    /// Bytes of the generator, made many at a time: those from `used` on are still to be given out.
    ready: [u8; READY_LEN],
    used: usize,
}

impl Nonces {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            generator: seeded()?,
            forks: FORKS.load(Relaxed),
            left: NONCES_A_SEED,
            ready: [0; READY_LEN],
            used: READY_LEN,
        })
    }

    /// Fills `nonce`, which is at most [`NONCE_LEN_MAX`] bytes.
    pub(crate) fn fill(&mut self, nonce: &mut [u8]) -> Result<()> {
        if self.left == 0 || self.forks != FORKS.load(Relaxed) {
            *self = Self::new()?;
        }
        self.left -= 1;
        if self.used + nonce.len() > READY_LEN {
            self.generator.fill_bytes(&mut self.ready);
            self.used = 0;
        }
        nonce.copy_from_slice(&self.ready[self.used..self.used + nonce.len()]);
        self.used += nonce.len();
        Ok(())
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonces(..)")
    }
}

fn seeded() -> Result<ChaCha12Rng> {
    let mut seed = Zeroizing::new([0; 32]);
    fill_from_system(seed.as_mut())?;
    Ok(ChaCha12Rng::from_seed(*seed))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_nonce_comes_twice_not_even_after_a_fork() {
        let mut nonces = Nonces::new().unwrap();
        // What a child would have: the same generator, to the bit.
        let mut child = nonces.clone();
        let mut seen = HashSet::new();
        let mut nonce = [0; 12];
        forked();
        for _ in 0..2 * NONCES_A_SEED {
            for nonces in [&mut nonces, &mut child] {
                nonces.fill(&mut nonce).unwrap();
                assert!(seen.insert(nonce));
            }
        }
    }
}
