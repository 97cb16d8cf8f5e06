//! Random nonces. Copies of a file that diverge with one key therefore never use a nonce twice.

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

/// The number of nonces from one seed. It bounds how many nonces two copies of a virtual machine share.
const NONCES_A_SEED: u32 = 1 << 16;

/// The bytes that the generator makes at once.
const READY_LEN: usize = 1024;

/// The number of `fork(2)` calls between the first process and this one.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Records that this process is the child of a `fork(2)`. Async-signal-safe, as code in such a child must be.
pub(crate) extern "C" fn forked() {
    FORKS.fetch_add(1, Relaxed);
}

/// Fills `bytes` from the operating system's random generator.
pub(crate) fn fill_from_system(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| Error::io("reading random bytes of the system", std::io::Error::other(error)))
}

/// A generator of nonces: `ChaCha12`, seeded by the operating system, and again after a fork and after [`NONCES_A_SEED`] nonces.
///
/// A system call for each page would take longer than the fastest cipher.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Nonces {
    generator: ChaCha12Rng,
    forks: u64,
    left: u32,
    /// Output of the generator. The bytes from `used` on are unused.
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
    fn nonces_are_unique_even_after_a_fork() {
        let mut nonces = Nonces::new().unwrap();
        // A child has an identical generator.
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
