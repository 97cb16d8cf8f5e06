//! The six AEGIS ciphers (draft-irtf-cfrg-aegis-aead) with a tag of 128 bits, by libaegis, which selects its code by the features
//! of the processor.

use aegis::{
    aegis128l::Aegis128L, aegis128x2::Aegis128X2, aegis128x4::Aegis128X4, aegis256::Aegis256,
    aegis256x2::Aegis256X2, aegis256x4::Aegis256X4,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Aead, Cipher, TAG_LEN, Unauthentic};

// Cargo unifies features over a build: another crate may enable `aegis/pure-rust`, which is up to 138 times as slow. The state
// of the C library is aligned for 512-bit vectors, and that of the other backend is not.
const _: () = assert!(
    align_of::<aegis::aegis128x4::Encryptor<TAG_LEN>>() == 64,
    "a crate of this build enables the feature `pure-rust` of `aegis`, which is too slow for pages; disable it"
);

macro_rules! aegis {
    ($($cipher:ident)*) => {
        $(impl Aead for Key<$cipher<TAG_LEN>, { Cipher::$cipher.key_len() }> {
            fn seal(&self, nonce: &[u8], associated: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
                $cipher::new(&self.key, exactly(nonce)).encrypt_in_place(text, associated)
            }

            fn open(
                &self,
                nonce: &[u8],
                associated: &[u8],
                text: &mut [u8],
                tag: &[u8; TAG_LEN],
            ) -> Result<(), Unauthentic> {
                $cipher::new(&self.key, exactly(nonce))
                    .decrypt_in_place(text, tag, associated)
                    .map_err(|_| Unauthentic)
            }
        })*

        /// The cipher with `key`. Returns `None` for another cipher, or a key of another size.
        pub(super) fn new(cipher: Cipher, key: &[u8]) -> Option<Box<dyn Aead>> {
            match cipher {
                $(Cipher::$cipher => Some(Box::new(Key::<$cipher<TAG_LEN>, { Cipher::$cipher.key_len() }> {
                    key: key.try_into().ok()?,
                    cipher: std::marker::PhantomData,
                })),)*
                _ => None,
            }
        }
    };
}

aegis! { Aegis128L Aegis128X2 Aegis128X4 Aegis256 Aegis256X2 Aegis256X4 }

/// A key of an AEGIS cipher. They have no key schedule.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Key<C, const LEN: usize> {
    key: [u8; LEN],
    #[zeroize(skip)]
    cipher: std::marker::PhantomData<fn() -> C>,
}

fn exactly<const LEN: usize>(nonce: &[u8]) -> &[u8; LEN] {
    nonce.try_into().unwrap_or_else(|_| panic!("a nonce of {} bytes, not {LEN}", nonce.len()))
}

/// Whether this processor has the instructions that libaegis needs to be fast.
pub(super) fn is_accelerated() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("avx");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}
