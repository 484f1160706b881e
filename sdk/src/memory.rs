//! Comparing bytes, where WebAssembly's C library is slow.
//!
//! `==` of two texts ends in C's `memcmp`. The one of wasi-libc goes byte by byte, and the host's limit on time is looked
//! at in each turn of a loop: comparing names of events was a third of what a reducer took for a row. The linker takes
//! this one in its place, for all that is in a step.

use std::ffi::c_int;

/// Compares `length` bytes, as C's function of this name does.
///
/// # Safety
///
/// So many bytes can be read at both places.
#[cfg(target_family = "wasm")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> c_int {
    // SAFETY: it is what the caller promises.
    unsafe { compare(a, b, length) }
}

/// Returns a number below, equal to or above zero as the first byte that differs is the smaller one in `a`, there is
/// none, or it is the greater one.
///
/// It takes places rather than slices, whose comparison would end here again.
///
/// # Safety
///
/// `length` bytes can be read at both places.
unsafe fn compare(a: *const u8, b: *const u8, length: usize) -> c_int {
    const WORD: usize = size_of::<u64>();
    let mut at = 0;
    while at + WORD <= length {
        // SAFETY: a whole word begins here, within what may be read; it need not be aligned.
        let (a, b) = unsafe {
            (
                a.add(at).cast::<u64>().read_unaligned(),
                b.add(at).cast::<u64>().read_unaligned(),
            )
        };
        if a != b {
            // The first byte weighs most.
            return if a.to_be() < b.to_be() { -1 } else { 1 };
        }
        at += WORD;
    }
    while at < length {
        // SAFETY: it lies within what may be read.
        let (a, b) = unsafe { (*a.add(at), *b.add(at)) };
        if a != b {
            return c_int::from(a) - c_int::from(b);
        }
        at += 1;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length up to a few words, from every place in a word, with each byte the first that differs.
    #[test]
    fn bytes_compare_as_slices_do() {
        const BYTES: usize = 40;
        let plain: Vec<u8> = (0..BYTES as u8).map(|byte| byte.wrapping_mul(67)).collect();
        for from in 0..8 {
            for length in 0..=BYTES - from {
                let a = &plain[from..from + length];
                let same = a.to_vec();
                check(a, &same);
                for at in 0..length {
                    let mut other = a.to_vec();
                    other[at] ^= 0x80;
                    // What follows must not count.
                    if let Some(next) = other.get_mut(at + 1) {
                        *next ^= 0x7f;
                    }
                    check(a, &other);
                    check(&other, a);
                }
            }
        }
    }

    fn check(a: &[u8], b: &[u8]) {
        assert_eq!(a.len(), b.len());
        // SAFETY: both are so long.
        let found = unsafe { compare(a.as_ptr(), b.as_ptr(), a.len()) };
        assert_eq!(found.cmp(&0), a.cmp(b), "{a:?} and {b:?}");
    }
}
