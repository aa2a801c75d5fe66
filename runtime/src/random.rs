//! The key from which a step draws its random numbers.
//!
//! Kernels draw every random number as a function of the step's key and the element's position. The key itself is a
//! function of seed and step, so a session that goes on from a checkpoint draws what it would have drawn without the
//! pause. The formula is the compiler's (`ffc_ir::numerics::step_key`), restated since the runtime ships without it.

/// The key of step `step` (counted from 0) of a session seeded with `seed`.
pub fn step_key(seed: u64, step: u64) -> u32 {
    let words = [seed as u32, (seed >> 32) as u32, step as u32, (step >> 32) as u32];
    words.into_iter().fold(0, |key: u32, word| mix(key.wrapping_add(word).wrapping_add(0x9e37_79b9)))
}

/// A bijection of 32 bits in which every bit of the result depends on every bit of the operand.
fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
