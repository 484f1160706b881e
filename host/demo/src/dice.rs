//! Chance that falls the same way everywhere. Hides the generator, and keeps to integers: sampling
//! code of other crates may change between versions, and floating-point functions differ between
//! machines.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use uuid::Uuid;

/// One sequence of random draws.
#[derive(Debug)]
pub(crate) struct Dice {
    rng: ChaCha8Rng,
}

impl Dice {
    /// The sequence number `stream` of a seed. Sequences of different numbers are independent, so
    /// that what belongs to a visitor can be drawn again whenever the visitor returns, rather than
    /// kept.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut key = *b"stepwell demo: behavioural event";
        for (byte, seed_byte) in key.iter_mut().zip(seed.to_le_bytes()) {
            *byte ^= seed_byte;
        }
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(stream);
        Self { rng }
    }

    /// A number in `0..bound`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        // The high half of a product: the bias is below bound / 2^32, and it needs no loop.
        let product = u64::from(self.rng.next_u32()) * u64::from(bound);
        (product >> 32) as u32
    }

    /// A number in `low..high`; `low` where the range is empty.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = high.saturating_sub(low).max(0).unsigned_abs();
        let product = u128::from(self.rng.next_u64()) * u128::from(width);
        low + (product >> 64) as i64
    }

    pub(crate) fn chance(&mut self, per_100k: u32) -> bool {
        self.below(100_000) < per_100k
    }

    /// How often the chance comes true in a row, at most `most` times.
    pub(crate) fn run(&mut self, per_100k: u32, most: u32) -> u32 {
        let mut length = 0;
        while length < most && self.chance(per_100k) {
            length += 1;
        }
        length
    }

    /// An index below `count` that prefers low ones: the square of an even draw.
    pub(crate) fn popular(&mut self, count: usize) -> usize {
        let draw = u64::from(self.rng.next_u32());
        let squared = (draw * draw) >> 32;
        ((squared * count as u64) >> 32) as usize
    }

    /// An index below `count`.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        ((u64::from(self.rng.next_u32()) * count as u64) >> 32) as usize
    }

    /// A random UUID (version 4).
    pub(crate) fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.rng.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    pub(crate) fn bits(&mut self) -> u32 {
        self.rng.next_u32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_their_bounds_and_are_even() {
        let mut dice = Dice::new(7, 0);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[dice.below(10) as usize] += 1;
            assert!((-5..9).contains(&dice.between(-5, 9)));
            assert!(dice.popular(3) < 3);
            assert!(dice.index(3) < 3);
        }
        for count in counts {
            assert!((9_500..10_500).contains(&count), "{counts:?}");
        }
        assert_eq!(dice.between(4, 4), 4);
        assert_eq!(dice.between(4, 1), 4);
        assert_eq!(dice.below(0), 0);
    }

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let first: Vec<u32> = (0..4).map(|stream| Dice::new(1, stream).bits()).collect();
        let again: Vec<u32> = (0..4).map(|stream| Dice::new(1, stream).bits()).collect();
        assert_eq!(first, again);
        let mut distinct = first;
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 4);
    }
}
