//! Random bytes and random changes of bytes.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// Returns a random number generator with a new seed. Prints the seed, because the output of a test
/// is shown when it fails.
pub fn random() -> StdRng {
    let seed = std::env::var("HOSTILE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("HOSTILE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

pub fn one_of<'a, T>(random: &mut impl Rng, choice: &'a [T]) -> &'a T {
    &choice[random.random_range(..choice.len())]
}

/// Returns random bytes, at most `most` of them.
pub fn noise(random: &mut impl Rng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..=most)];
    random.fill_bytes(&mut bytes);
    bytes
}

/// Inputs that often break parsers.
const STUMBLING_BLOCKS: [&[u8]; 28] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"1e308",
    b"-0",
    b"1e400",
    b"99999999999999999999",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x98\x80",
    b"{\"$gt\":\"\"}",
    b"[]",
    b"-",
    b"/",
    b"\x1e",
    b"&",
    b"%00",
    b"=",
];

/// Returns the bytes with one to four random changes.
pub fn mutated(random: &mut impl Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 8));
        match random.random_range(0..5) {
            0 => _ = bytes.drain(at..end),
            1 => _ = bytes.splice(at..end, one_of(random, &STUMBLING_BLOCKS).iter().copied()),
            2 => _ = bytes.splice(at..at, noise(random, 4)),
            3 => bytes.extend_from_within(at..end),
            _ => bytes[at..end]
                .iter_mut()
                .for_each(|byte| *byte ^= 1 << random.random_range(0..8)),
        }
    }
    bytes
}
